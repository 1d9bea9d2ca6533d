"""A run that trains: stage, launch, relay, upload."""

import sys
from dataclasses import replace
from pathlib import Path

from jobs.service.claims import TrainAssignment
from jobs.service.endings import Ending
from jobs.service.events import measured
from jobs.states import RunOutcome
from training.run_directory import verify
from worker.active_run import ActiveRun
from worker.base_models import obtain
from worker.checkpoints import CheckpointUploads
from worker.environment import (
    extensions_environment,
    trackers_environment,
    training_environment,
)
from worker.launchers.standby import COLD_START
from worker.model_facts import check_pin
from worker.relay import relays_of
from worker.results import RESULT_INVALID, patiently, upload_result
from worker.staging import stage
from worker.step_metrics import STEP_METRICS, upload_table, write_table
from worker.verdict import verdict
from worker.watch import watch


def train(active: ActiveRun, assignment: TrainAssignment) -> Ending:
    """Train, with everything worth keeping in the store when it returns.

    Raises:
        Stopped: The run was to stop before training had started.
        Unusable: An input is missing or has changed, or the base model cannot be had.
        Fenced: The run is no longer ours; all its processes are gone.
        GaveUp: The worker had no time left.
    """
    claim = active.claim
    prefix = f"jobs/{claim.job_id}/attempt-{claim.attempt}"
    with CheckpointUploads(active, prefix) as uploads:
        relays = relays_of(active, uploads.add)
        model_folder = obtain(active, relays, assignment.model)
        check_pin(active, relays, assignment.model, model_folder)
        stage(active, assignment, model_folder)
        watched = watch(
            active,
            [sys.executable, "-P", "-m", "training", "run", str(active.directory.path)],
            _environment(active, assignment),
            relays,
            active.host.settings.phase_timeout_seconds,
        )
        active.free_slots()
    ending = verdict(watched.reason, relays.events.finished, watched.report)
    return _with_result(active, ending, prefix) if _succeeded(ending) else ending


def _environment(active: ActiveRun, assignment: TrainAssignment) -> dict[str, str]:
    gpus = tuple(active.host.devices[index] for index in active.claim.gpu_indices)
    settings, training = active.host.settings, assignment.training
    environment = training_environment(active.tag, active.directory.path / "home", gpus)
    if training.parallelism.strategy != "none":
        environment[COLD_START] = "1"  # each of its processes loads by itself
    if training.parallelism.uses_deepspeed:
        environment |= extensions_environment(settings)
    return environment | trackers_environment(settings, assignment)


def _succeeded(ending: Ending) -> bool:
    return ending.outcome == RunOutcome.SUCCEEDED


def _with_result(active: ActiveRun, ending: Ending, prefix: str) -> Ending:
    """The ending with its artifacts; a result that does not verify is a crash, no success."""
    if not verify(active.directory.result):
        return Ending(RunOutcome.CRASHED, RESULT_INVALID)
    store, check, run_id = active.host.store, active.check_held, active.claim.run_id
    table = _table(active)
    return replace(
        ending,
        artifacts=patiently(run_id, lambda: upload_result(store, active.directory, prefix, check)),
        results=patiently(run_id, lambda: upload_table(store, table, prefix, check)),
    )


def _table(active: ActiveRun) -> Path:
    """What was measured, from the events that were kept: those of earlier attempts count too."""
    job_id = active.claim.job_id
    assert job_id is not None
    table = active.directory.path / STEP_METRICS
    write_table(active.read(lambda session: measured(session, job_id)), table)
    return table
