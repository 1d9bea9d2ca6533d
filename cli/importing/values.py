"""Rules that several sources share: the model's name, trackers, processes, DeepSpeed's presets."""

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from cli.errors import CliError
from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, left_out, to
from cli.importing.scalars import scalar
from training.adapter_config import AdapterConfig
from training.layout_fit import UNTEMPLATED
from training.section import Section

STRATEGY = "training.parallelism.strategy"
NUM_PROCESSES = "training.parallelism.num_processes"
OFFLOAD = "training.parallelism.offload"
ALL_PARTS = ["optimizer", "parameters"]
ADAPTER_TYPE = "training.adapter.type"
FULL = {ADAPTER_TYPE: "none"}
ATTENTION = "training.model.attn_implementation"
_DTYPE = "training.model.dtype"
_QUANTIZATION = "training.model.quantization"
_EIGHT = 8
_SAMPLING = "training.optimization.train_sampling_strategy"

DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".txt", ".parquet", ".arrow"})
WORKERS_CHOICE = left_out("the worker decides that")
NUM_LOADERS = dict.fromkeys(("preprocessing_num_workers", "dataloader_num_workers"), WORKERS_CHOICE)
FSDP_SETTINGS = left_out("FSDP's settings are ours; parallelism.offload says what leaves")
NOT_SENT = left_out("of a run, only metrics are sent")
TEXTS_ONLY = left_out("rows are texts; no images or sounds are read")
RESUMABLE = left_out("a checkpoint can always be resumed")
HUB = left_out("a result goes to a hub by `POST /v1/fine_tuning/jobs/{id}/exports`, after the job")


def model(value: Value) -> Settings:
    """A name of the catalogue; of a folder its last part."""
    if not _says_something(value):
        return {}
    text = str(value)
    is_folder = text.startswith(("/", ".", "~"))
    return {"model": PurePosixPath(text).name if is_folder else text}


def report_to(value: Value) -> Settings:
    """W&B and MLflow are integrations of a job, the other trackers are named in `reporting`."""
    if not isinstance(value, str | list | None):
        raise LeftOut("should be a tracker's name, or a list of them")
    names = [value] if isinstance(value, str) else list(value or ())
    settings: dict[str, Any] = {}
    for name in ("wandb", "mlflow"):
        if name in names:
            settings[f"{name}.is_asked"] = True
            names.remove(name)
    settings["training.reporting.report_to"] = [name for name in names if name != "none"]
    return settings


def deepspeed(value: Value) -> Settings:
    """A preset by the name of its file, as vigogne, LLaMA-Factory and Axolotl name theirs."""
    if not value:
        return {}
    name = PurePosixPath(str(value)).name.lower()
    found = [stage for stage, names in _STAGES.items() if any(each in name for each in names)]
    if len(found) != 1:
        raise LeftOut(
            "a file of DeepSpeed is not read; set parallelism.strategy to zero2 or zero3, or give "
            "the configuration itself as parallelism.deepspeed"
        )
    offloads = name in _OFFLOADING or ("offload" in name and "no_offload" not in name)
    return {STRATEGY: found[0], OFFLOAD: _PARTS[found[0]] if offloads else None}


_PARTS = {"ddp": None, "zero2": ["optimizer"], "zero3": ALL_PARTS}
_STAGES = {
    "ddp": ("zero0", "z0", "zero_0"),
    "zero2": ("zero2", "z2", "zero_2"),
    "zero3": ("zero3", "z3", "zero_3"),
}
_OFFLOADING = frozenset({"ds_config_zero2.json", "ds_config_zero3.json"})
"""vigogne's; the name says where nothing is offloaded."""


def fsdp(value: Value) -> Settings:
    """The options of transformers, as a list or in one text; true asks for FSDP alone."""
    if not value:
        return {}
    options = value.replace(",", " ").split() if isinstance(value, str) else value
    if options is True:
        options = []
    if not isinstance(options, list):
        raise LeftOut("should be options of FSDP, e.g. full_shard")
    settings = {
        STRATEGY: "ddp" if "no_shard" in options else "fsdp",
        OFFLOAD: ALL_PARTS if "offload" in options else None,
    }
    if other := [option for option in map(str, options) if option not in _FSDP_OPTIONS]:
        raise LeftOut(_FSDP_REASONS.get(other[0], f"{other[0]} is no option here"), kept=settings)
    return settings


_FSDP_OPTIONS = frozenset({"full_shard", "no_shard", "offload", "auto_wrap"})
_ON_ONE_HOST = "a job runs on one host, and its processes share all weights: full_shard"
_FSDP_REASONS = {
    "shard_grad_op": "weights are shared, too: full_shard; parallelism.strategy zero2 leaves them "
    "whole in each process",
    "hybrid_shard": _ON_ONE_HOST,
    "hybrid_shard_zero2": _ON_ONE_HOST,
}


def parsed(path: str) -> Rule:
    """JSON in a string, as vigogne takes added tokens."""

    def parse(value: Value) -> Settings:
        try:
            return {path: json.loads(value) if isinstance(value, str) else value}
        except ValueError:
            raise LeftOut("should be JSON") from None

    return parse


def unquoted(keys: Mapping[str, Value], texts: Container[str]) -> dict[str, Value]:
    """`keys` with the numbers and switches that stand in quotes, but for those that are `texts`."""
    return {
        key: scalar(value) if isinstance(value, str) and key not in texts else value
        for key, value in keys.items()
    }


def valid(section: type[Section], key: str, value: Value, otherwise: Value) -> Value:
    """`value`, if a job may have it there; else what its program does without it."""
    try:
        return getattr(section.model_validate({key: value}), key)
    except ValidationError:
        return otherwise


def warmup_steps(value: Value) -> Settings:
    """None of them leave the warm-up to `warmup_ratio`, as in transformers; it is 0, too."""
    return {"training.warmup_steps": value} if value else {}


def in_front(names: Sequence[str], keys: Mapping[str, Value]) -> dict[str, Value]:
    """`keys` with those of `names` first, to be set before what they stand above."""
    return {**{name: keys[name] for name in names if name in keys}, **keys}


def text(*paths: str) -> Rule:
    return lambda value: dict.fromkeys(paths, str(value) if _says_something(value) else None)


def _says_something(value: Value) -> bool:
    return value is not None and value != ""


def leave_out_misfits(draft: Draft) -> None:
    """What a program overlooks beside other settings, where the server would refuse both."""
    if draft.value(ADAPTER_TYPE) == "none":
        for path in _OF_ADAPTERS:
            draft.withdraw(path, "every weight is trained, without an adapter")
    _leave_out_quantization(draft)
    _keep_quantized_weights_whole(draft)
    is_flash = draft.value(ATTENTION) == "flash_attention_2"
    if is_flash and draft.value(_DTYPE) == "float32":
        draft.withdraw(ATTENTION, "FlashAttention computes in 16 bits")
    if draft.value("training.data.packing"):
        draft.withdraw(_SAMPLING, "packed blocks are always shuffled")
    if draft.value("validation_file") is None and not draft.value("training.data.eval_split"):
        draft.withdraw("training.data.max_eval_rows", "no rows are held out")
    if draft.value("training.data.format") in UNTEMPLATED:
        for key in ("template", "default_system"):
            draft.withdraw(f"training.data.{key}", "texts stand as they are, in no layout")


def _leave_out_quantization(draft: Draft) -> None:
    bits = draft.value(f"{_QUANTIZATION}.bits")
    if bits is None:
        draft.withdraw(_QUANTIZATION, "weights are quantized where a number of bits is given only")
    if bits == _EIGHT:
        for key in ("type", "double_quant"):
            if draft.value(f"{_QUANTIZATION}.{key}"):
                draft.withdraw(f"{_QUANTIZATION}.{key}", "weights of 8 bits have no such choice")


def _keep_quantized_weights_whole(draft: Draft) -> None:
    is_quantized = draft.value(f"{_QUANTIZATION}.bits") is not None
    if is_quantized and draft.value(STRATEGY) in _SPLITTING:
        for path in (STRATEGY, OFFLOAD):
            draft.withdraw(path, "quantized weights stay whole: parallelism.strategy is ddp")
        draft.default(STRATEGY, "ddp")


_SPLITTING = frozenset({"zero3", "fsdp"})
_OF_ADAPTERS = (
    *(f"training.adapter.{key}" for key in AdapterConfig.model_fields if key != "type"),
    _QUANTIZATION,
)


def require_model_and_files(draft: Draft, *, no_model: str, no_files: str) -> None:
    """Raises CliError with a reason if there is nothing to train, or nothing to train on."""
    if draft.value("model") is None:
        raise CliError(no_model)
    if draft.value("training_file") is None and draft.value("training_files") is None:
        raise CliError(no_files)


def named_file(draft: Draft, key: str, name: str) -> str:
    """`name`, with a note if it is no file but a data set of a hub."""
    if PurePosixPath(name).suffix not in DATA_SUFFIXES:
        draft.note(key, f"no data set is fetched; put the rows of {name} in a file, and name that")
    return name


def carry_files(draft: Draft, key: str, files: Sequence[str], *, is_validation: bool) -> None:
    """Data files of a source that takes any number of them."""
    if not files:
        return
    if is_validation:
        draft.carry_by(to("validation_file"), key, files[0])
        for index in range(1, len(files)):
            draft.note(f"{key}[{index}]", "a job has one validation file")
    elif len(files) == 1:
        draft.carry_by(to("training_file"), key, files[0])
    else:
        draft.carry_by(to("training_files"), key, [{"file": file} for file in files])
