"""Lays out a run directory: data, weights to go on from, the newest checkpoint, `run.json`."""

from pathlib import Path

from jobs.artifacts.base import ArtifactStore
from jobs.service.claims import StagedFile, TrainAssignment
from jobs.service.endings import Ending
from jobs.settings import Settings
from jobs.states import RunOutcome
from training.events import Failure
from training.run_spec import DatasetSource, PreparedFolder, RunSpec, StartSource
from worker.active_run import ActiveRun
from worker.checkpoints import restore_newest
from worker.transfers import Check, Mismatch, download
from worker.verdict import Unusable
from worker.weights import stage_weights, stage_whole_model


def stage(active: ActiveRun, assignment: TrainAssignment, model_folder: Path) -> None:
    """Fill the directory of a training run.

    Raises:
        Unusable: A data file, or one of the weights to go on from, is missing or has changed.
        Stopped: The run is to stop.
        Fenced: The run is no longer ours.
    """
    store, directory, check = active.host.store, active.directory, active.check
    sources = {
        role: [
            _stage_file(store, file, directory.data / f"{role}-{position}.{file.container}", check)
            for position, file in enumerate(f for f in assignment.files if f.role == role)
        ]
        for role in ("training", "validation")
    }
    restore_newest(store, assignment.checkpoints, directory, check)
    whole, adapter = assignment.tuned.whole, assignment.tuned.adapter
    start = None
    if whole is not None:
        base_folder, model_folder = model_folder, directory.base
        stage_whole_model(store, whole, base_folder, model_folder, check)
    if adapter is not None:
        stage_weights(store, adapter, directory.start, check)
        start = StartSource(path=str(directory.start), name=adapter.name)
    spec = RunSpec(
        training=assignment.training,
        model_path=str(model_folder),
        base_model=assignment.model.name if whole is None else whole.name,
        start=start,
        training_files=sources["training"],
        validation_files=sources["validation"],
        prepared=_prepared_folder(active.host.settings),
        wandb=assignment.wandb,
        mlflow=assignment.mlflow,
        seed=assignment.seed,
        name=assignment.fine_tuned_model,
        attempt=active.claim.attempt,
    )
    directory.write_spec(spec)


def _prepared_folder(settings: Settings) -> PreparedFolder | None:
    if not settings.prepared_max_bytes:
        return None
    return PreparedFolder(path=str(settings.prepared_folder), max_bytes=settings.prepared_max_bytes)


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
