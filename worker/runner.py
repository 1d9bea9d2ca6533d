"""One run as a plain function, from the claim to the words about its end."""

import logging

from jobs.service import claims, endings
from jobs.service.claims import Assignment, Claim, ExportAssignment, TrainAssignment
from jobs.service.endings import Ending
from jobs.service.file_checks import CheckAssignment
from jobs.service.records import Fence, Fenced
from jobs.states import JobStatus, RunOutcome
from training.events import Failure
from training.failures import shortage
from training.run_directory import RunDirectory, remove_folder
from worker.active_run import ActiveRun
from worker.check_run import check
from worker.export_run import export
from worker.heartbeat import Heartbeat
from worker.host import Host
from worker.inspect_run import inspect
from worker.outages import GaveUp
from worker.processes import tag_of_worker
from worker.stopping import Stopped
from worker.train_run import train
from worker.verdict import Unusable, verdict

_log = logging.getLogger(__name__)


def run(host: Host, claim: Claim) -> None:
    """Do what was claimed, and say how it ended, unless the run was taken away meanwhile."""
    fence = Fence(claim.run_id, claim.lease_token)
    directory = RunDirectory(host.settings.runs_folder / claim.run_id)
    tag = tag_of_worker(host.settings, host.worker_id) + claim.run_id
    try:
        with Heartbeat(host, fence) as heartbeat:
            _settle(ActiveRun(host, claim, fence, heartbeat, directory, tag))
    except (Fenced, GaveUp) as why:
        _log.warning("run %s is let go without a word: %r", claim.run_id, why)
    finally:
        remove_folder(directory.path)


def _settle(active: ActiveRun) -> None:
    host = active.host
    ending = _ending(active)
    status = active.write(
        lambda session: endings.finish(session, active.fence, ending, host.settings)
    )
    _log.info("run %s ended: %s", active.claim.run_id, ending.outcome)
    if status == JobStatus.QUEUED:
        host.bell.ring(host.settings.worker_pool)


def _ending(active: ActiveRun) -> Ending:
    """How the run ended: the edge where every error becomes an ending."""
    try:
        active.directory.path.mkdir(parents=True)
        assignment = active.write(lambda session: claims.assignment(session, active.claim))
        ending = _do(active, assignment)
    except Stopped as stopped:
        ending = verdict(stopped.reason, None, None)
    except Unusable as unusable:
        ending = unusable.ending
    except (Fenced, GaveUp):
        raise
    except Exception as error:  # noqa: BLE001 - a process edge
        _log.exception("run %s", active.claim.run_id)
        failure = shortage(error) or Failure(
            code="worker_error",
            message=f"the worker could not do its part: {type(error).__name__}: {error}",
            fault="infrastructure",
            remedy="look at the worker's log: its disk, its store, its database",
        )
        ending = Ending(RunOutcome.CRASHED, failure)
    return ending


def _do(active: ActiveRun, assignment: Assignment) -> Ending:
    if isinstance(assignment, TrainAssignment):
        return train(active, assignment)
    if isinstance(assignment, ExportAssignment):
        return export(active, assignment)
    if isinstance(assignment, CheckAssignment):
        return check(active, assignment)
    return inspect(active, assignment)
