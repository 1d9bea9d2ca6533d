"""A command of vigogne's `train_sft`, versions 2.1 and 2.2, as a job.

Most of its arguments are spellings that a job has itself (`training.spellings`); here is what
stands outside `training`, what is said to the launcher, and what vigogne does by default.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cli.importing.command_line import Command, is_unknown, parse_command
from cli.importing.draft import Draft, Rule, left_out, silent, to
from cli.importing.scalars import scalar
from cli.importing.values import (
    ADAPTER_TYPE,
    FSDP_SETTINGS,
    FULL,
    NUM_LOADERS,
    NUM_PROCESSES,
    STRATEGY,
    WORKERS_CHOICE,
    deepspeed,
    fsdp,
    in_front,
    leave_out_misfits,
    model,
    parsed,
    report_to,
    require_model_and_files,
    text,
    warmup_steps,
)

_LISTS = frozenset({"target_modules", "lora_target_modules", "lora_modules_to_save", "report_to"})
_TEXTS = frozenset({"model_name_or_path", "train_file", "eval_file", "run_name"})

FLAGS: Mapping[str, Rule] = MappingProxyType(
    {
        "model_name_or_path": model,
        "model_revision": left_out(
            "a revision is pinned when a model is added: `tunesmith models add --revision`"
        ),
        "train_file": to("training_file"),
        "eval_file": to("validation_file"),
        "validation_file": to("validation_file"),
        "seed": to("seed"),
        "run_name": text("suffix", "wandb.name"),
        "report_to": report_to,
        "deepspeed": deepspeed,
        "fsdp": fsdp,
        "fsdp_config": FSDP_SETTINGS,
        "warmup_steps": warmup_steps,
        "add_tokens": parsed("training.add_tokens"),
        "add_special_tokens": parsed("training.add_special_tokens"),
        "local_rank": WORKERS_CHOICE,
        "ddp_find_unused_parameters": silent,
        **NUM_LOADERS,
    }
)
LAUNCHER: Mapping[str, Rule] = MappingProxyType(
    {
        "nproc_per_node": to(NUM_PROCESSES),
        "num_processes": to(NUM_PROCESSES),
        "num_gpus": to(NUM_PROCESSES),
        "nnodes": left_out("a job runs on one host"),
        "standalone": silent,
    }
)
ENVIRONMENT: Mapping[str, Rule] = MappingProxyType(
    {
        "WANDB_PROJECT": text("wandb.project"),
        "WANDB_ENTITY": text("wandb.entity"),
        "MLFLOW_EXPERIMENT_NAME": text("mlflow.experiment"),
        "CUDA_VISIBLE_DEVICES": left_out("a worker gives a job its GPUs"),
        "WANDB_API_KEY": left_out("a worker has its own key"),
        "HF_TOKEN": left_out("a worker has its own token"),
    }
)
_FOUR = 4
_OF_2_1 = frozenset({"mode", "target_modules", "compute_dtype", "use_nested_quant"})
"""Arguments by which a command for version 2.1, which always trains LoRA, is told."""
_DATA = "training.data"
_MAX_LENGTH = f"{_DATA}.max_length"

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "training.model.dtype": "float16",
        "training.optimization.num_train_epochs": 3,
        "training.optimization.learning_rate": 5e-5,
        "training.optimization.lr_scheduler_type": "linear",
        "training.optimization.warmup_steps": 0,
        "training.optimization.gradient_checkpointing": False,
    }
)
LORA_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "training.adapter.r": 8,
        "training.adapter.lora_alpha": 16,
        "training.adapter.lora_dropout": 0.05,
    }
)


DEFAULTS_OF_2_1: Mapping[str, Any] = MappingProxyType(
    {
        f"{_DATA}.format": "instruct",
        f"{_DATA}.template": "vigogne_alpaca",
        "training.adapter.target_modules": ["q_proj", "v_proj"],
    }
)
DEFAULTS_OF_2_2: Mapping[str, Any] = MappingProxyType(
    {f"{_DATA}.format": "messages", f"{_DATA}.template": "vigogne_chat_v3"}
)
_DEFAULTS_OF: Mapping[str | None, Mapping[str, Any]] = MappingProxyType(
    {"2.1": DEFAULTS_OF_2_1, "2.2": DEFAULTS_OF_2_2}
)
_BLOCK = 1024
_BITS = "training.model.quantization.bits"
_DOUBLE_QUANT = "training.model.quantization.double_quant"


def draft_of(text: str) -> Draft:
    """The job that a script's command asks for; raises CliError if there is no such command."""
    command = parse_command(text)
    draft = Draft({**FLAGS, **LAUNCHER, **ENVIRONMENT})
    _carry_all(draft, command)
    require_model_and_files(
        draft,
        no_model="--model_name_or_path: no model is named that is known without a shell",
        no_files="--train_file: no file to train on is named that is known without a shell",
    )
    version = _version(draft, command)
    _choose_method(draft, command, version)
    _set_defaults_of_version(draft, version)
    if _packs(command) and draft.value(_MAX_LENGTH) is None:
        draft.default(f"{_DATA}.block_size", _BLOCK)
    if _processes(draft) > 1:
        draft.default(STRATEGY, "ddp")
    for path, value in DEFAULTS.items():
        draft.default(path, value)
    leave_out_misfits(draft)
    return draft


def _carry_all(draft: Draft, command: Command) -> None:
    for name, words in in_front(_FIRST, command.flags).items():
        if name == "block_size" and not _packs(command):
            draft.note("--block_size", "blocks are filled with --pack_into_block only")
        else:
            _carry(draft, f"--{name}", name, words)
    for name, words in command.launcher.items():
        if name in LAUNCHER:
            _carry(draft, f"--{name}", name, words)
        else:
            draft.note(f"--{name}", "processes are started by the worker")
    for name in ENVIRONMENT.keys() & command.environment.keys():
        draft.carry(name, command.environment[name])


_FIRST = ("lora_target_all_linear_layers", "warmup_steps")
"""Every linear layer includes those that are named; a number of steps goes before a ratio."""


def _carry(draft: Draft, shown_as: str, name: str, words: list[str]) -> None:
    if unknown := [word for word in words if is_unknown(word)]:
        draft.note(shown_as, f"only a shell knows the value of {unknown[0]}")
        return
    draft.carry(name, _value(name, words), shown_as=shown_as)


def _value(name: str, words: list[str]) -> object:
    if name in _LISTS:
        return words
    if name in _TEXTS:
        return " ".join(words)
    values = [scalar(word) for word in words] or [True]
    return values if len(values) > 1 else values[0]


def _version(draft: Draft, command: Command) -> str | None:
    """Which vigogne a command is for, if that can be told.

    Without an adapter only 2.1 trains quantized weights: 2.2 finds nothing to train in those of 8
    bits, and overlooks that they should be of 4.
    """
    if _OF_2_1 & command.flags.keys():
        return "2.1"
    if "adapter" in command.flags:
        return "2.2"
    if any(name.startswith("lora_") for name in command.flags):
        return None
    return "2.1" if draft.value(_BITS) is not None else "2.2"


_MISSING: Mapping[str | None, str] = MappingProxyType(
    {
        None: "is missing, but arguments of LoRA are there: LoRA is trained",
        "2.1": "is missing, but weights are quantized: LoRA is trained, as vigogne 2.1 does",
        "2.2": "is missing: every weight is trained, as vigogne 2.2 does",
    }
)


def _choose_method(draft: Draft, command: Command, version: str | None) -> None:
    """LoRA or full fine-tuning; vigogne 2.2 falls into the latter where `adapter` is left out."""
    if not (_OF_2_1 | {"adapter"}) & command.flags.keys():
        draft.note("--adapter", _MISSING[version])
        for path, value in FULL.items() if version == "2.2" else ():
            draft.default(path, value)
    if draft.value(ADAPTER_TYPE) == "none":
        return
    for path, value in LORA_DEFAULTS.items():
        draft.default(path, value)


def _set_defaults_of_version(draft: Draft, version: str | None) -> None:
    for path, value in _DEFAULTS_OF.get(version, {}).items():
        draft.default(path, value)
    if version == "2.1" and draft.value(_BITS) == _FOUR:
        draft.default(_DOUBLE_QUANT, value=False)


def _packs(command: Command) -> bool:
    words = command.flags.get("pack_into_block")
    return words is not None and _value("pack_into_block", words) is True


def _processes(draft: Draft) -> int:
    count = draft.value(NUM_PROCESSES)
    return count if isinstance(count, int) else 1
