"""Runs in this process, on the tiny model, for tests to look at."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from training.events import Event, EventWriter, Finished, Metrics, read_events
from training.failures import RunError, StopRequested, failure_of
from training.reporting import Reporter
from training.resumption import rewind
from training.run import run
from training.run_directory import RunDirectory, StopReason
from training.run_spec import RunSpec
from training.stopping import StopSignal

FLOAT32: Mapping[str, Any] = {"model": {"dtype": "float32"}, "reporting": {"report_to": []}}
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus {number % 7}?"},
            {"role": "assistant", "content": f"It is {number + number % 7}."},
        ]
    }
    for number in range(40)
]


class StoppingWriter(EventWriter):
    """Has the process told to stop when an event of a kind is written, as a TERM would."""

    def __init__(self, path: Path, stop: StopSignal, when: Callable[[Event], bool]) -> None:
        super().__init__(path)
        self._stop = stop
        self._when = when

    def write(self, event: Event) -> None:
        super().write(event)
        if self._when(event):
            self._stop.request()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepare(
    folder: Path,
    model: Path,
    training: Mapping[str, Any] | None = None,
    *,
    rows: Iterable[Mapping[str, Any]] = ROWS,
    format: str = "messages",
    **spec: Any,
) -> RunDirectory:
    """A run directory that says: train `model` on `rows`, in float32 unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    source = {"path": str(write_rows(folder / "train.jsonl", rows)), "format": format}
    directory = RunDirectory(folder)
    directory.write_spec(
        RunSpec.model_validate(
            {
                "training": {**FLOAT32, **(training or {})},
                "model_path": str(model),
                "base_model": "tiny",
                "training_files": [source],
                "seed": 7,
                **spec,
            }
        )
    )
    return directory


def train(
    directory: RunDirectory,
    *,
    stop_when: Callable[[Event], bool] = lambda _event: False,
    reason: StopReason = "drain",
) -> Finished:
    """Do the run as the process edge does, but for the signal."""
    directory.write_stop_reason(reason)
    stop = StopSignal(directory)
    writer = StoppingWriter(directory.events_file, stop, stop_when)
    reporter = Reporter(writer)
    try:
        spec = directory.read_spec()
        return run(directory, spec, rewind(directory, spec, reporter), reporter, stop)
    except StopRequested as request:
        saved = request.reason in {"pause", "drain"}
        return Finished(outcome="interrupted" if saved else "cancelled", step=reporter.step)
    except RunError as error:
        return Finished(outcome="failed", step=reporter.step, failure=failure_of(error))
    finally:
        writer.close()


def events(directory: RunDirectory) -> list[Event]:
    return [event for event, _ in read_events(directory.events_file)]


def curve(directory: RunDirectory, name: str = "train_loss") -> dict[int, float | int | None]:
    """The newest value of a metric at every step."""
    return {
        event.step: event.metrics[name]
        for event in events(directory)
        if isinstance(event, Metrics) and name in event.metrics
    }


def adapter(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(folder / "adapter_model.safetensors")
    return tensors
