"""Lays out a run directory: data, the newest checkpoint that is whole, and `run.json`."""

from pathlib import Path

from jobs.artifacts.base import ArtifactStore
from jobs.service.claims import StagedFile, TrainAssignment
from jobs.service.endings import Ending
from jobs.states import RunOutcome
from training.config import DatasetSource, RunSpec
from training.events import Failure
from worker.active_run import ActiveRun
from worker.checkpoints import restore_newest
from worker.transfers import Check, Mismatch, download
from worker.verdict import Unusable


def stage(active: ActiveRun, assignment: TrainAssignment, model_folder: Path) -> None:
    """Fill the directory of a training run.

    Raises:
        Unusable: A data file is missing or has changed.
        Stopped: The run is to stop.
        Fenced: The run is no longer ours.
    """
    store, directory, check = active.host.store, active.directory, active.check
    sources = {
        role: [
            _stage_file(store, file, directory.data / f"{role}-{position}.jsonl", check)
            for position, file in enumerate(f for f in assignment.files if f.role == role)
        ]
        for role in ("training", "validation")
    }
    restore_newest(store, assignment.checkpoints, directory, check)
    spec = RunSpec(
        training=assignment.training,
        model_path=str(model_folder),
        base_model=assignment.model.name,
        training_files=sources["training"],
        validation_files=sources["validation"],
        seed=assignment.seed,
        name=assignment.fine_tuned_model,
        attempt=active.claim.attempt,
    )
    directory.write_spec(spec)


def _stage_file(
    store: ArtifactStore, file: StagedFile, target: Path, check: Check
) -> DatasetSource:
    try:
        download(store, file.artifact_key, target, file.sha256, check)
    except (FileNotFoundError, Mismatch) as error:
        failure = Failure(
            code="input_changed",
            message=f"a {file.role} file is missing or has changed: {error}",
            fault="infrastructure",
            remedy="upload the file again and submit a new job",
        )
        raise Unusable(Ending(RunOutcome.FAILED, failure)) from error
    return DatasetSource(path=str(target), format=file.format, weight=file.weight)
