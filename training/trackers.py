"""Where a run's numbers go beside its events: the trackers that it asks for, together."""

from collections.abc import Iterator
from contextlib import contextmanager

from training.config import TrainingConfig
from training.ledger import Numbers
from training.mlflow_run import open_mlflow
from training.reporting import Reporter
from training.run_directory import RunDirectory
from training.run_spec import RunSpec
from training.tensorboard_files import TensorBoardFiles
from training.tracker import Tracker
from training.wandb_run import open_wandb


class Trackers:
    """All trackers of a run."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def write(self, step: int, numbers: Numbers) -> None:
        for tracker in self._trackers:
            tracker.write(step, numbers)

    def close(self, *, failed: bool) -> None:
        for tracker in self._trackers:
            tracker.close(failed=failed)


@contextmanager
def open_trackers(
    directory: RunDirectory, spec: RunSpec, config: TrainingConfig, reporter: Reporter
) -> Iterator[Trackers]:
    """The trackers that a run asks for, closed when the block ends."""
    found: list[Tracker] = []
    if "tensorboard" in config.reporting.report_to:
        found.append(TensorBoardFiles(directory.tensorboard))
    if spec.wandb is not None and (wandb := open_wandb(directory, spec, config, reporter)):
        found.append(wandb)
    if spec.mlflow is not None and (mlflow := open_mlflow(directory, spec, config, reporter)):
        found.append(mlflow)
    trackers = Trackers(found)
    try:
        yield trackers
    except Exception:
        trackers.close(failed=True)
        raise
    except BaseException:  # told to stop, which is no failure
        trackers.close(failed=False)
        raise
    trackers.close(failed=False)
