"""A run of Weights & Biases: at its server, or in a folder that can be sent there later."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.config import TrainingConfig
from training.ledger import Numbers
from training.reporting import Reporter
from training.run_directory import RunDirectory, remove_folder
from training.run_spec import RunSpec
from training.tracker import facts, grouped, reason, shared_id

_INIT_SECONDS = 30
_FINISH_SECONDS = 15  # a run that is stopped has no more


class WandbRun:
    """Whatever the package raises (it is no one tree of errors) ends the tracking, not the run."""

    def __init__(self, run: Any, reporter: Reporter) -> None:  # noqa: ANN401 - an optional package
        self._run = run
        self._reporter = reporter

    def write(self, step: int, numbers: Numbers) -> None:
        self._try(lambda run: run.log(grouped(numbers), step=step))

    def close(self, *, failed: bool) -> None:
        self._try(lambda run: run.finish(exit_code=int(failed)))
        if self._run is not None:
            # The package's own log tells of nothing but this machine.
            remove_folder(Path(self._run.dir).parent / "logs")

    def _try(self, step: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            step(self._run)
        except Exception as error:  # noqa: BLE001 - see above
            self._run = None
            self._reporter.warn(
                f"Nothing more is written to wandb: {reason(error)}.", integration="wandb"
            )


def open_wandb(
    directory: RunDirectory, spec: RunSpec, config: TrainingConfig, reporter: Reporter
) -> WandbRun | None:
    """The run, at the server that `WANDB_API_KEY` is for, else offline; None if neither can be."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers, that is
    try:
        import wandb  # noqa: PLC0415 - an optional package
    except ImportError:
        reporter.warn(
            "The package wandb is not installed on this worker: nothing is written to it.",
            integration="wandb",
        )
        return None
    values = _described(spec, config) | {"settings": wandb.Settings(**_SETTINGS)}
    run = _online(wandb, values, reporter) if os.environ.get("WANDB_API_KEY") else None
    try:
        run = run or wandb.init(**values, mode="offline", dir=str(directory.path))
    except Exception as error:  # noqa: BLE001 - as in WandbRun
        reporter.warn(f"Nothing is written for wandb: {reason(error)}.", integration="wandb")
        return None
    where = "offline" if run.offline else f"at {run.url}"
    reporter.tell(f"Metrics are written for wandb as well, {where}.", integration="wandb")
    return WandbRun(run, reporter)


def _online(wandb: Any, values: dict[str, Any], reporter: Reporter) -> Any:  # noqa: ANN401 - an optional package
    """A run at the server, of which nothing is kept here; None if the server cannot be had."""
    folder = tempfile.mkdtemp(prefix="wandb-")
    try:
        return wandb.init(**values, mode="online", resume="allow", dir=folder)
    except Exception as error:  # noqa: BLE001 - as in WandbRun
        wandb.teardown()
        reporter.warn(
            "The server of wandb cannot be used, so the metrics are written offline: "
            f"{reason(error)}.",
            integration="wandb",
        )
        return None


_SETTINGS: dict[str, Any] = {
    # Nothing of the machine, its packages, its environment or its output.
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "host": "tunesmith",
    "save_code": False,
    "silent": True,
    "symlink": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "init_timeout": _INIT_SECONDS,
    "finish_timeout": _FINISH_SECONDS,
}


def _described(spec: RunSpec, config: TrainingConfig) -> dict[str, Any]:
    asked = spec.wandb
    assert asked is not None
    return {
        "project": asked.project,
        "entity": asked.entity,
        "name": asked.name or spec.name,
        "tags": asked.tags,
        "id": shared_id(spec),
        "config": facts(spec, config),
    }
