"""A configuration of Axolotl as a job: what each of its keys means here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cli.errors import CliError
from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, chosen, left_out, silent, to
from cli.importing.values import (
    FULL,
    HUB,
    NOT_SENT,
    WORKERS_CHOICE,
    carry_files,
    deepspeed,
    fsdp,
    model,
    named_file,
    number,
    text,
)

_DATA = "training.data"
_OPTIM = "training.optimization"
_TOKENIZER = left_out("a model is trained with the tokenizer of its own folder")
_SEVERAL_TIMES = left_out("give a number of steps: evaluation.eval_steps, checkpoints.save_steps")
_ATTENTION = "training.model.attn_implementation"


def _switch(settings: Settings, reason: str = "should be true or false") -> Rule:
    return chosen({True: settings, False: {}, None: {}}, reason)


def _val_set_size(value: Value) -> Settings:
    if isinstance(value, int | float) and value >= 1:
        raise LeftOut("a number of rows is not held out; give a share of them, at most 0.5")
    return {f"{_DATA}.eval_split": value}


def _dataset_type(value: Value) -> Settings:
    """The format of the rows, and the layout where the type names one."""
    name = str(value).partition(".")[0].partition(":")[0]
    if name not in _TYPES:
        raise LeftOut(f"rows of the type {value!r} are not read; make them messages")
    return _TYPES[name]


_TYPES: Mapping[str, Settings] = MappingProxyType(
    {
        "alpaca": {f"{_DATA}.format": "instruct", f"{_DATA}.template": "alpaca"},
        "chat_template": {},
        "sharegpt": {f"{_DATA}.format": "sharegpt"},
        "completion": {f"{_DATA}.format": "text"},
    }
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        # The model and its tokenizer
        "base_model": model,
        "base_model_config": silent,
        "revision_of_model": left_out(
            "a revision is pinned when a model is added: `tunesmith models add --revision`"
        ),
        "model_type": silent,
        "is_llama_derived_model": silent,
        "is_mistral_derived_model": silent,
        "is_falcon_derived_model": silent,
        "tokenizer_type": silent,
        "tokenizer_config": _TOKENIZER,
        "tokens": to("training.add_tokens"),
        "special_tokens": to("training.add_special_tokens"),
        "bf16": chosen(
            {
                True: {"training.model.dtype": "bfloat16"},
                "full": {"training.model.dtype": "bfloat16"},
                "auto": {},
                False: {},
                None: {},
            },
            "should be true, false or auto",
        ),
        "fp16": _switch({"training.model.dtype": "float16"}),
        "float16": _switch({"training.model.dtype": "float16"}),
        "bfloat16": _switch({"training.model.dtype": "bfloat16"}),
        "tf32": left_out("the worker decides how float32 is multiplied"),
        "flash_attention": _switch({_ATTENTION: "flash_attention_2"}),
        "sdp_attention": _switch({_ATTENTION: "sdpa"}),
        "eager_attention": _switch({_ATTENTION: "eager"}),
        # The adapter
        "adapter": chosen(
            {
                "lora": {"training.adapter": "lora"},
                "qlora": {"training.adapter": "qlora"},
                "": {},
                None: {},
            },
            "adapters are of the type lora here",
        ),
        "lora_model_dir": left_out("to go on from an adapter, name the job's result as `model`"),
        "lora_target_linear": _switch({"training.adapter.target_modules": "all-linear"}),
        "peft_use_dora": to("training.adapter.use_dora"),
        "peft_use_rslora": to("training.adapter.use_rslora"),
        "peft_init_lora_weights": to("training.adapter.init_lora_weights"),
        # The data
        "dataset_prepared_path": left_out("prepared data is kept and reused by what shaped it"),
        "dataset_processes": WORKERS_CHOICE,
        "val_set_size": _val_set_size,
        "sequence_len": to(f"{_DATA}.max_length"),
        "min_sample_len": to(f"{_DATA}.min_length"),
        "excess_length_strategy": chosen(
            {
                "drop": {f"{_DATA}.overlong": "drop"},
                "truncate": {f"{_DATA}.overlong": "truncate_end"},
                None: {},
            },
            "should be drop or truncate",
        ),
        "sample_packing": to(f"{_DATA}.packing"),
        "eval_sample_packing": left_out("held-out rows are never packed"),
        "pad_to_sequence_len": silent,
        "train_on_inputs": _switch({f"{_DATA}.train_on": "everything"}),
        "chat_template": chosen(
            {
                "chatml": {f"{_DATA}.template": "chatml"},
                "alpaca": {f"{_DATA}.template": "alpaca"},
                "tokenizer_default": {},
                None: {},
            },
            "the model's own chat template is used; data.template has others",
        ),
        "default_system_message": to(f"{_DATA}.default_system"),
        "shuffle_merged_datasets": silent,
        # Steps
        "num_epochs": number(f"{_OPTIM}.num_train_epochs"),
        "micro_batch_size": to(f"{_OPTIM}.per_device_train_batch_size"),
        "eval_batch_size": to(f"{_OPTIM}.per_device_eval_batch_size"),
        "optimizer": to(f"{_OPTIM}.optim"),
        "lr_scheduler": to(f"{_OPTIM}.lr_scheduler_type"),
        "learning_rate": number(f"{_OPTIM}.learning_rate"),
        "warmup_ratio": number("training.warmup_ratio"),
        "weight_decay": number(f"{_OPTIM}.weight_decay"),
        "adam_epsilon": number(f"{_OPTIM}.adam_epsilon"),
        "gradient_checkpointing": chosen(
            {
                True: {f"{_OPTIM}.gradient_checkpointing": True},
                False: {f"{_OPTIM}.gradient_checkpointing": False},
                None: {},
            },
            "layers are recomputed, not offloaded: optimization.gradient_checkpointing",
        ),
        "gradient_checkpointing_kwargs": left_out("layers are recomputed without reentrance"),
        # Evaluation, checkpoints, reports
        "evals_per_epoch": _SEVERAL_TIMES,
        "saves_per_epoch": _SEVERAL_TIMES,
        "early_stopping_patience": to("training.evaluation.early_stopping_patience"),
        "auto_resume_from_checkpoints": silent,
        "debug": left_out("the worker's logs are at `tunesmith logs`"),
        "wandb_project": lambda value: (
            {"wandb.project": str(value), "wandb.is_asked": True} if value else {}
        ),
        "wandb_entity": text("wandb.entity"),
        "wandb_name": text("wandb.name"),
        "mlflow_experiment_name": lambda value: (
            {"mlflow.experiment": str(value), "mlflow.is_asked": True} if value else {}
        ),
        "mlflow_run_name": text("mlflow.name"),
        "mlflow_tracking_uri": left_out("a worker has its own server"),
        "wandb_run_id": NOT_SENT,
        "wandb_watch": NOT_SENT,
        "wandb_log_model": NOT_SENT,
        "hub_model_id": HUB,
        # Processes
        "deepspeed": deepspeed,
        "fsdp": fsdp,
        "fsdp_config": left_out("FSDP's settings are ours; parallelism.offload says what leaves"),
        "local_rank": WORKERS_CHOICE,
        "strict": silent,
        "seed": to("seed"),
    }
)
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        f"{_OPTIM}.num_train_epochs": 1,
        f"{_OPTIM}.per_device_train_batch_size": 1,
        f"{_OPTIM}.gradient_checkpointing": False,
    }
)


def draft_of(keys: Mapping[str, Any]) -> Draft:
    """The job that a configuration asks for.

    Raises:
        CliError: It asks for another way to train.
    """
    if method := keys.get("rl"):
        raise CliError(f"rl: Tunesmith trains supervised, not by {method}")
    draft = Draft(RULES)
    for key, value in keys.items():
        if key in {"datasets", "test_datasets"}:
            _carry_datasets(draft, key, value)
        elif key != "rl":
            draft.carry(key, value)
    if not keys.get("adapter"):
        for path, value in FULL.items():
            draft.default(path, value)
        draft.note("adapter", "is missing: every weight is trained, as Axolotl does")
    for path, value in DEFAULTS.items():
        draft.default(path, value)
    return draft


def _carry_datasets(draft: Draft, key: str, entries: Value) -> None:
    files = []
    for index, entry in enumerate(entries or ()):
        place = f"{key}[{index}]"
        files.append(named_file(draft, f"{place}.path", _file_of(entry)))
        draft.carry_by(_dataset_type, f"{place}.type", entry.get("type", "alpaca"))
        for other in entry.keys() - _READ:
            draft.note(f"{place}.{other}", "what a file's rows are is detected from them")
    carry_files(draft, key, files, is_validation=key == "test_datasets")


_READ = frozenset({"path", "data_files", "type", "ds_type", "split"})


def _file_of(entry: Mapping[str, Any]) -> str:
    """The file that is named most closely; a data set of a hub stays a name, to be replaced."""
    files = entry.get("data_files")
    first = files[0] if isinstance(files, list) and files else files
    return str(first or entry.get("path"))
