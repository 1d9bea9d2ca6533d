"""Rules that several sources share: the model's name, trackers, processes, DeepSpeed's presets."""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, left_out, to
from cli.importing.scalars import scalar

STRATEGY = "training.parallelism.strategy"
NUM_PROCESSES = "training.parallelism.num_processes"
OFFLOAD = "training.parallelism.offload"
FULL = {"training.adapter.type": "none"}

DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".txt", ".parquet", ".arrow"})
WORKERS_CHOICE = left_out("the worker decides that")
NOT_SENT = left_out("of a run, only metrics are sent")
HUB = left_out("a result goes to a hub by `POST /v1/fine_tuning/jobs/{id}/exports`, after the job")


def model(value: Value) -> Settings:
    """A name of the catalogue; of a folder its last part."""
    text = str(value)
    is_folder = text.startswith(("/", ".", "~"))
    return {"model": PurePosixPath(text).name if is_folder else text}


def report_to(value: Value) -> Settings:
    """W&B and MLflow are integrations of a job, the other trackers are named in `reporting`."""
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
    parts = ["optimizer"] if found[0] == "zero2" else ["optimizer", "parameters"]
    return {STRATEGY: found[0], OFFLOAD: parts if offloads else None}


_STAGES = {"zero2": ("zero2", "z2", "zero_2"), "zero3": ("zero3", "z3", "zero_3")}
_OFFLOADING = frozenset({"ds_config_zero2.json", "ds_config_zero3.json"})
"""vigogne's; the name says where nothing is offloaded."""


def fsdp(value: Value) -> Settings:
    return {STRATEGY: "fsdp"} if value else {}


def parsed(path: str) -> Rule:
    """JSON in a string, as vigogne takes added tokens."""

    def parse(value: Value) -> Settings:
        try:
            return {path: json.loads(value) if isinstance(value, str) else value}
        except ValueError:
            raise LeftOut("should be JSON") from None

    return parse


def number(*paths: str) -> Rule:
    """A number, which YAML takes for a text where it is written as `1e-4`."""
    return lambda value: dict.fromkeys(paths, scalar(value) if isinstance(value, str) else value)


def text(*paths: str) -> Rule:
    return lambda value: dict.fromkeys(paths, None if value in {None, ""} else str(value))


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
