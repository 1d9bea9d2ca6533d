"""A configuration of LLaMA-Factory as a job: what each of its keys means here."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cli.errors import CliError
from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, chosen, left_out, silent, to
from cli.importing.values import (
    ADAPTER_TYPE,
    ATTENTION,
    FSDP_SETTINGS,
    FULL,
    HUB,
    NUM_LOADERS,
    RESUMABLE,
    TEXTS_ONLY,
    WORKERS_CHOICE,
    carry_files,
    deepspeed,
    fsdp,
    in_front,
    leave_out_misfits,
    model,
    named_file,
    report_to,
    require_model_and_files,
    text,
    unquoted,
    valid,
    warmup_steps,
)
from training.adapter_config import AdapterConfig
from training.data_config import DataConfig

_DATA = "training.data"
_ADAPTER = "training.adapter"
_OPTIM = "training.optimization"
_EXPORT = left_out("POST /v1/fine_tuning/jobs/{id}/exports makes that, after the job")
_PROJECTED = "optimization.optim_target_modules to the layers"
_PROJECTED_LAYERS = left_out("set optimization.optim_target_modules")
_PROJECTIONS = (
    *("galore_rank", "galore_update_interval", "galore_scale", "galore_proj_type"),
    *("apollo_rank", "apollo_update_interval", "apollo_scale", "apollo_proj"),
    *("apollo_proj_type", "apollo_scale_type"),
)
_IMAGES = (
    *("freeze_vision_tower", "freeze_multi_modal_projector", "image_max_pixels"),
    *("image_min_pixels", "video_max_pixels", "video_min_pixels", "media_dir"),
)
_OTHER_METHOD = left_out("there is no such method here")


def _switch(settings: Settings) -> Rule:
    return chosen({True: settings, False: {}, None: {}}, "should be true or false")


def _names(value: Value) -> list[str]:
    """A list, which LLaMA-Factory also takes with commas, or as one name."""
    one = [] if value is None else str(value).split(",")
    names = value if isinstance(value, list) else one
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
                "fa2": {ATTENTION: "flash_attention_2"},
                "sdpa": {ATTENTION: "sdpa"},
                "disabled": {ATTENTION: "eager"},
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
            "lora and full are trained here; the job trains lora",
        ),
        "lora_rank": to("training.lora_r"),
        "lora_target": _target,
        "additional_target": lambda value: {f"{_ADAPTER}.modules_to_save": _names(value) or None},
        "pissa_init": _switch({f"{_ADAPTER}.init_lora_weights": "pissa"}),
        "pissa_iter": left_out('set adapter.init_lora_weights to "pissa_niter_N"'),
        "pissa_convert": silent,
        **dict.fromkeys(_IMAGES, TEXTS_ONLY),
        "use_unsloth": left_out("our own engine trains"),
        "use_galore": left_out(f'set optimization.optim to "galore_adamw", and {_PROJECTED}'),
        "use_apollo": left_out(f'set optimization.optim to "apollo_adamw", and {_PROJECTED}'),
        **dict.fromkeys(_PROJECTIONS, left_out("set optimization.optim_args")),
        "galore_target": _PROJECTED_LAYERS,
        "apollo_target": _PROJECTED_LAYERS,
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
        "val_size": _val_size,
        "packing": to(f"{_DATA}.packing"),
        "neat_packing": _switch({f"{_DATA}.packing": True}),
        "train_on_prompt": _switch({f"{_DATA}.train_on": "everything"}),
        "mask_history": _switch({f"{_DATA}.train_on": "last_assistant"}),
        "tokenized_path": left_out("prepared data is kept and reused by what shaped it"),
        "disable_shuffling": _switch({f"{_OPTIM}.train_sampling_strategy": "sequential"}),
        "mix_strategy": chosen({"concat": {}, None: {}}, "files are mixed by their weights"),
        # Steps
        "num_train_epochs": to(f"{_OPTIM}.num_train_epochs"),
        "learning_rate": to(f"{_OPTIM}.learning_rate"),
        "warmup_ratio": to("training.warmup_ratio"),
        "warmup_steps": warmup_steps,
        "weight_decay": to(f"{_OPTIM}.weight_decay"),
        "adam_epsilon": to(f"{_OPTIM}.adam_epsilon"),
        "early_stopping_steps": to("training.evaluation.early_stopping_patience"),
        # Reports and results
        "plot_loss": left_out(
            "curves are in TensorBoard's files: …/jobs/{id}/trackers/tensorboard"
        ),
        "report_to": report_to,
        "run_name": text("suffix", "wandb.name"),
        "save_only_model": RESUMABLE,
        "compute_accuracy": silent,
        "include_num_input_tokens_seen": silent,
        "export_dir": _EXPORT,
        "export_size": _EXPORT,
        "export_device": _EXPORT,
        "export_hub_model_id": HUB,
        # Processes
        "deepspeed": deepspeed,
        "fsdp": fsdp,
        "fsdp_config": FSDP_SETTINGS,
        "ddp_timeout": WORKERS_CHOICE,
        **NUM_LOADERS,
        "ddp_find_unused_parameters": silent,
        "seed": to("seed"),
    }
)
_TEXTS = frozenset(
    {
        *("model_name_or_path", "dataset", "eval_dataset", "dataset_dir", "default_system"),
        *("add_tokens", "lora_target", "additional_target", "run_name"),
    }
)
"""Keys whose values are texts, even where they look like numbers."""

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        f"{_OPTIM}.num_train_epochs": 3,
        f"{_OPTIM}.learning_rate": 5e-5,
        f"{_OPTIM}.lr_scheduler_type": "linear",
        f"{_OPTIM}.warmup_steps": 0,
        f"{_DATA}.overlong": "truncate_end",
    }
)


def draft_of(keys: Mapping[str, Any]) -> Draft:
    """The job that a configuration asks for.

    Raises:
        CliError: It asks for another way to train.
    """
    if (stage := keys.get("stage", "sft")) != "sft":
        raise CliError(f"stage: Tunesmith trains supervised (sft), not by {stage}")
    keys = unquoted(keys, _TEXTS)
    if keys.get("neat_packing") is True:
        keys = {**keys, "packing": True}
    draft = Draft(RULES)
    _carry(draft, keys)
    require_model_and_files(
        draft,
        no_model="model_name_or_path: no model is named in it",
        no_files="dataset: no data set to train on is named in it",
    )
    _set_defaults(draft)
    leave_out_misfits(draft)
    return draft


def _carry(draft: Draft, keys: Mapping[str, Value]) -> None:
    folder = Path(str(keys.get("dataset_dir", "data")))
    for key, value in in_front(["warmup_steps"], keys).items():
        if key in {"dataset", "eval_dataset"}:
            files = [_file_of(draft, key, name, folder) for name in _names(value)]
            carry_files(draft, key, files, is_validation=key == "eval_dataset")
        elif key == "max_samples":
            _carry_max_samples(draft, keys)
        else:
            draft.carry(key, value)
    if keys.get("cutoff_len") is not None:
        draft.note("cutoff_len", _SHORTENED)


_SHORTENED = (
    "a row that is too long loses its end; LLaMA-Factory shortens a long question as well: "
    "data.overlong has other ways"
)


def _set_defaults(draft: Draft) -> None:
    if draft.value(ADAPTER_TYPE) != "none":
        draft.default(f"{_ADAPTER}.r", _RANK)
        rank = valid(AdapterConfig, "r", draft.value(f"{_ADAPTER}.r"), _RANK)
        draft.default(f"{_ADAPTER}.lora_alpha", 2 * rank)
    for path, value in DEFAULTS.items():
        draft.default(path, value)


_RANK = 8
"""Of LLaMA-Factory's adapters, by default."""


def _carry_max_samples(draft: Draft, keys: Mapping[str, Value]) -> None:
    """So many rows of each data set, before any are held out; a job counts those that are left."""
    num_sets = len(_names(keys.get("dataset")))
    share = valid(DataConfig, "eval_split", keys.get("val_size"), 0.0)

    def rows(value: Value) -> Settings:
        each = valid(DataConfig, "max_train_rows", value, None)
        if each is None:
            return {f"{_DATA}.max_train_rows": value}
        held_out = round(each * num_sets * share)
        validates = draft.value("validation_file") is not None or "eval_dataset" in keys
        return {
            f"{_DATA}.max_train_rows": each * num_sets - held_out,
            f"{_DATA}.max_eval_rows": held_out or (each if validates else None),
        }

    draft.carry_by(rows, "max_samples", keys["max_samples"])
    if num_sets > 1:
        draft.note(
            "max_samples",
            "LLaMA-Factory counts in each data set; here the first rows of all files together are "
            "taken: data.max_train_rows",
        )


def _file_of(draft: Draft, key: str, name: str, folder: Path) -> str:
    """The file of a data set, as the folder's `dataset_info.json` has it; else its name."""
    entry = _entry_of(name, folder)
    for other, value in entry.items():
        if other not in _PLACES:
            reason = _UNREAD.get(other, "what a file's rows are is detected from them")
            draft.carry_by(left_out(reason), f"dataset_info.json[{name}].{other}", value)
    if file := entry.get("file_name"):
        return str(folder / str(file))
    return named_file(draft, key, name)


def _entry_of(name: str, folder: Path) -> Mapping[str, Any]:
    """What is said of a data set; nothing, if it is not there."""
    try:
        entry = json.loads((folder / "dataset_info.json").read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return entry if isinstance(entry, Mapping) else {}


_PLACES = frozenset({"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url"})
_UNREAD: Mapping[str, str] = MappingProxyType(
    {
        "num_samples": "all rows of a file are taken; data.max_train_rows is for all files",
        "subset": "a file has no subsets; all of its rows are taken",
        "split": "a file has no splits; all of its rows are taken",
    }
)
"""What is said of the keys of an entry that do not say what its rows are."""
