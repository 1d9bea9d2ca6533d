"""Where a run goes on: its checkpoints on disk, found by their manifests. Light.

Hashes are compared before anything of a checkpoint is opened.
"""

from pathlib import Path

from training.events import Rewound
from training.reporting import Reporter
from training.run_directory import RunDirectory, remove_folder
from training.run_spec import RunSpec


def rewind(directory: RunDirectory, spec: RunSpec, reporter: Reporter) -> Path | None:
    """The newest whole checkpoint, and first of all the event that says what is void with it.

    Newer checkpoints that are not whole are named in warnings.
    """
    found = directory.newest_valid_checkpoint()
    step = step_of(found) if found else 0
    if found is not None or spec.attempt > 1:
        reporter.emit(Rewound(step=step))
    for folder in checkpoint_folders(directory):
        if found is None or step_of(folder) > step:
            reporter.warn(f"{folder.name} is damaged and is left out.", checkpoint=folder.name)
    return found


def prune_checkpoints(directory: RunDirectory, keep: int, best_step: int | None) -> None:
    """Delete all but the `keep` newest and the best."""
    for folder in checkpoint_folders(directory)[:-keep]:
        if step_of(folder) != best_step:
            remove_folder(folder)


def checkpoint_folders(directory: RunDirectory) -> list[Path]:
    """Oldest first."""
    folders = directory.checkpoints.glob("checkpoint-*")
    return sorted((p for p in folders if p.name[11:].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
