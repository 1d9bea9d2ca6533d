"""A configuration of LLaMA-Factory as a job: what each of its keys means here."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cli.errors import CliError
from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, chosen, left_out, silent, to
from cli.importing.values import (
    FULL,
    HUB,
    WORKERS_CHOICE,
    carry_files,
    deepspeed,
    fsdp,
    model,
    named_file,
    number,
    report_to,
    text,
)

_DATA = "training.data"
_ADAPTER = "training.adapter"
_OPTIM = "training.optimization"
_ATTENTION = "training.model.attn_implementation"
_EXPORT = left_out("POST /v1/fine_tuning/jobs/{id}/exports makes that, after the job")
_OTHER_METHOD = left_out("there is no such method here")


def _switch(settings: Settings) -> Rule:
    return chosen({True: settings, False: {}, None: {}}, "should be true or false")


def _names(value: Value) -> list[str]:
    """A list, which LLaMA-Factory also takes with commas."""
    names = value.split(",") if isinstance(value, str) else list(value or ())
    return [str(name).strip() for name in names]


def _target(value: Value) -> Settings:
    names = _names(value)
    return {f"{_ADAPTER}.target_modules": "all-linear" if names == ["all"] else names}


def _val_size(value: Value) -> Settings:
    if isinstance(value, int | float) and value >= 1:
        raise LeftOut("a number of rows is not held out; give a share of them, at most 0.5")
    return {f"{_DATA}.eval_split": value}


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        # The model
        "model_name_or_path": model,
        "model_revision": left_out(
            "a revision is pinned when a model is added: `tunesmith models add --revision`"
        ),
        "adapter_name_or_path": left_out(
            "to go on from an adapter, name the job's result as `model`"
        ),
        "use_fast_tokenizer": silent,
        "add_tokens": lambda value: {"training.add_tokens": _names(value)},
        "new_special_tokens": left_out("set model.add_tokens to them"),
        "resize_vocab": silent,
        "quantization_bit": chosen(
            {
                4: {"training.load_in_4bit": True},
                8: {"training.load_in_8bit": True},
                None: {},
            },
            "weights are quantized to 4 or 8 bits here",
        ),
        "quantization_method": chosen(
            {"bnb": {}, "bitsandbytes": {}, None: {}}, "weights are quantized by bitsandbytes here"
        ),
        "quantization_type": to("training.bnb_4bit_quant_type"),
        "double_quantization": to("training.bnb_4bit_use_double_quant"),
        "pure_bf16": _switch({"training.model.dtype": "bfloat16"}),
        "flash_attn": chosen(
            {
                "fa2": {_ATTENTION: "flash_attention_2"},
                "sdpa": {_ATTENTION: "sdpa"},
                "disabled": {_ATTENTION: "eager"},
                "auto": {},
                None: {},
            },
            "should be fa2, sdpa, disabled or auto",
        ),
        "enable_liger_kernel": to("training.use_liger_kernel"),
        "disable_gradient_checkpointing": _switch({f"{_OPTIM}.gradient_checkpointing": False}),
        # The method
        "stage": silent,
        "finetuning_type": chosen(
            {"lora": {f"{_ADAPTER}.type": "lora"}, "full": FULL, None: {}},
            "lora and full are trained here",
        ),
        "lora_rank": to("training.lora_r"),
        "lora_target": _target,
        "additional_target": lambda value: {f"{_ADAPTER}.modules_to_save": _names(value) or None},
        "pissa_init": _switch({f"{_ADAPTER}.init_lora_weights": "pissa"}),
        "pissa_iter": left_out('set adapter.init_lora_weights to "pissa_niter_N"'),
        "pissa_convert": silent,
        "use_unsloth": left_out("our own engine trains"),
        "use_galore": _OTHER_METHOD,
        "use_apollo": _OTHER_METHOD,
        "use_badam": _OTHER_METHOD,
        "freeze_trainable_layers": _OTHER_METHOD,
        # The data
        "dataset_dir": silent,
        "template": chosen(
            {
                "alpaca": {f"{_DATA}.template": "alpaca"},
                "chatml": {f"{_DATA}.template": "chatml"},
                None: {},
            },
            "the model's own chat template is used; data.template has others",
        ),
        "default_system": to(f"{_DATA}.default_system"),
        "cutoff_len": to(f"{_DATA}.max_length"),
        "max_samples": to(f"{_DATA}.max_train_rows", f"{_DATA}.max_eval_rows"),
        "val_size": _val_size,
        "packing": to(f"{_DATA}.packing"),
        "neat_packing": to(f"{_DATA}.packing"),
        "train_on_prompt": _switch({f"{_DATA}.train_on": "everything"}),
        "mask_history": _switch({f"{_DATA}.train_on": "last_assistant"}),
        "tokenized_path": left_out("prepared data is kept and reused by what shaped it"),
        "mix_strategy": chosen({"concat": {}, None: {}}, "files are mixed by their weights"),
        # Steps
        "num_train_epochs": number(f"{_OPTIM}.num_train_epochs"),
        "learning_rate": number(f"{_OPTIM}.learning_rate"),
        "warmup_ratio": number("training.warmup_ratio"),
        "weight_decay": number(f"{_OPTIM}.weight_decay"),
        "adam_epsilon": number(f"{_OPTIM}.adam_epsilon"),
        # Reports and results
        "plot_loss": left_out(
            "curves are in TensorBoard's files: …/jobs/{id}/trackers/tensorboard"
        ),
        "report_to": report_to,
        "run_name": text("suffix", "wandb.name"),
        "save_only_model": left_out("a checkpoint can always be resumed"),
        "compute_accuracy": silent,
        "include_num_input_tokens_seen": silent,
        "export_dir": _EXPORT,
        "export_size": _EXPORT,
        "export_device": _EXPORT,
        "export_hub_model_id": HUB,
        # Processes
        "deepspeed": deepspeed,
        "fsdp": fsdp,
        "fsdp_config": left_out("FSDP's settings are ours; parallelism.offload says what leaves"),
        "ddp_timeout": WORKERS_CHOICE,
        "ddp_find_unused_parameters": silent,
        "seed": to("seed"),
    }
)
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        f"{_OPTIM}.num_train_epochs": 3,
        f"{_OPTIM}.learning_rate": 5e-5,
        f"{_OPTIM}.lr_scheduler_type": "linear",
        f"{_OPTIM}.warmup_steps": 0,
    }
)


def draft_of(keys: Mapping[str, Any]) -> Draft:
    """The job that a configuration asks for.

    Raises:
        CliError: It asks for another way to train.
    """
    if (stage := keys.get("stage", "sft")) != "sft":
        raise CliError(f"stage: Tunesmith trains supervised (sft), not by {stage}")
    draft = Draft(RULES)
    folder = Path(str(keys.get("dataset_dir", "data")))
    for key, value in keys.items():
        if key in {"dataset", "eval_dataset"}:
            files = [_file_of(draft, key, name, folder) for name in _names(value)]
            carry_files(draft, key, files, is_validation=key == "eval_dataset")
        else:
            draft.carry(key, value)
    if draft.value(f"{_ADAPTER}.type") != "none":
        rank = draft.value(f"{_ADAPTER}.r") or 8
        draft.default(f"{_ADAPTER}.r", rank)
        draft.default(f"{_ADAPTER}.lora_alpha", 2 * rank)
    for path, value in DEFAULTS.items():
        draft.default(path, value)
    return draft


def _file_of(draft: Draft, key: str, name: str, folder: Path) -> str:
    """The file of a data set, as the folder's `dataset_info.json` has it; else its name."""
    try:
        known = json.loads((folder / "dataset_info.json").read_bytes())
        return str(folder / known[name]["file_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return named_file(draft, key, name)
