"""A run that trains: stage, launch, relay, upload."""

import logging
import sys
import time
from dataclasses import replace

from jobs.service.claims import TrainAssignment
from jobs.service.endings import Ending, StoredArtifact
from jobs.service.records import free_slots
from jobs.states import RunOutcome
from training.events import Failure
from training.run_directory import verify
from worker.active_run import ActiveRun
from worker.base_models import obtain
from worker.checkpoints import CheckpointUploads
from worker.environment import training_environment
from worker.model_facts import check_pin
from worker.relay import relays_of
from worker.results import upload_result
from worker.staging import stage
from worker.transfers import Mismatch
from worker.verdict import verdict
from worker.watch import watch

_UPLOAD_TRIES = 5
_UPLOAD_PAUSE_SECONDS = 3.0
_log = logging.getLogger(__name__)


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
            _environment(active),
            relays,
            active.host.settings.phase_timeout_seconds,
        )
        _free_slots(active)
    ending = verdict(watched.reason, relays.events.finished, watched.report)
    return _with_result(active, ending, prefix) if _succeeded(ending) else ending


def _environment(active: ActiveRun) -> dict[str, str]:
    gpus = tuple(active.host.devices[index] for index in active.claim.gpu_indices)
    return training_environment(active.tag, active.directory.path / "home", gpus)


def _free_slots(active: ActiveRun) -> None:
    """The hardware is free: the next run need not wait for this one's uploads."""
    active.write(lambda session: free_slots(session, active.fence))
    active.host.slots_freed()


def _succeeded(ending: Ending) -> bool:
    return ending.outcome == RunOutcome.SUCCEEDED


def _with_result(active: ActiveRun, ending: Ending, prefix: str) -> Ending:
    """The ending with its artifacts; a result that does not verify is a crash, no success."""
    if not verify(active.directory.result):
        failure = Failure(
            code="result_invalid",
            message="the result does not match its manifest",
            fault="infrastructure",
        )
        return Ending(RunOutcome.CRASHED, failure)
    return replace(ending, artifacts=_upload(active, prefix))


def _upload(active: ActiveRun, prefix: str) -> tuple[StoredArtifact, ...]:
    """Upload the result; a store that is away is given some time to come back."""
    for attempt in range(1, _UPLOAD_TRIES):
        try:
            return upload_result(active.host.store, active.directory, prefix, active.check_held)
        except (OSError, Mismatch) as error:
            _log.warning("result of %s, try %d: %s", active.claim.run_id, attempt, error)
            time.sleep(_UPLOAD_PAUSE_SECONDS * attempt)
    return upload_result(active.host.store, active.directory, prefix, active.check_held)
