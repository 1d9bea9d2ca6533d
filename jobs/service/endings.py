"""How a run ends, for the runner that ends it and for the rescue of one that cannot.

The outcome, the job's intent and its budget decide the job's next status in the transaction that
closes the run; see `jobs.states.settle`.
"""

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Artifact, Checkpoint, Job, Model, Organization, Project, Run, new_id
from jobs.service.catalogue import ERROR, PENDING, READY
from jobs.service.export_runs import Made, lock_running_export, settle_export
from jobs.service.file_checks import settle_check
from jobs.service.files import RESULTS_PURPOSE, StoredFile, keep
from jobs.service.moves import fail, move
from jobs.service.records import Fence, hold, lock_running_job
from jobs.settings import Settings
from jobs.states import ExportStatus, Intent, JobStatus, RunOutcome, settle
from training.events import Failure, Level
from training.facts import ModelFacts
from training.file_check import FileReport

_ADAPTER_ARCHIVE = "adapter.zip"
_SENTENCES = {
    RunOutcome.INTERRUPTED: "The run was interrupted; the job goes on from its checkpoint",
    RunOutcome.CRASHED: "The training process died; the job is tried again",
    RunOutcome.LOST: "The worker was lost; the job is tried again",
    RunOutcome.CANCELLED: "The run was stopped; the job is tried again",
}
LOST = Failure(
    code="worker_lost",
    message="the worker stopped answering",
    fault="infrastructure",
    remedy="look at the worker's host and its log, then run the job again",
)


@dataclass(frozen=True)
class StoredArtifact:
    """A result that is in the store before the job says that it succeeded."""

    name: str
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Ending:
    """How a run ended, and what came of it."""

    outcome: RunOutcome
    failure: Failure | None = None
    trained_tokens: int | None = None
    artifacts: tuple[StoredArtifact, ...] = ()
    results: StoredArtifact | None = None
    """The table of what was measured."""
    facts: ModelFacts | None = None
    made: Made | None = None
    """Of an export."""
    report: FileReport | None = None
    """Of a checked file."""


Settled = JobStatus | ExportStatus | None
"""Where a run's end leaves what it was for; None: nothing that a worker could go on with."""


def finish(session: Session, fence: Fence, ending: Ending, settings: Settings) -> Settled:
    """Close a run of ours and settle what it was for; raises Fenced."""
    return _close(session, hold(session, fence), ending, settings)


def close_expired(
    session: Session, run_id: str, lease_expires_at: float, settings: Settings
) -> bool:
    """Close a run as lost, unless its lease was renewed since `lease_expires_at` was seen."""
    held = session.execute(
        update(Run)
        .where(Run.id == run_id, Run.lease_expires_at == lease_expires_at, Run.ended_at.is_(None))
        .values(lease_expires_at=lease_expires_at)
        .returning(Run.id)
    ).one_or_none()
    if held is None:
        return False
    run = session.get_one(Run, run_id, populate_existing=True)
    _close(session, run, Ending(RunOutcome.LOST, LOST), settings)
    return True


def abandon(session: Session, worker_id: str, settings: Settings) -> list[str]:
    """Close every open run of a worker that has just started, with nothing left of them alive."""
    query = select(Run).where(Run.worker_id == worker_id, Run.ended_at.is_(None))
    runs = list(session.scalars(query.order_by(Run.job_id).with_for_update()))
    for run in runs:
        _close(session, run, Ending(RunOutcome.LOST, LOST), settings)
    return [run.id for run in runs]


def _close(session: Session, run: Run, ending: Ending, settings: Settings) -> Settled:
    at = now(session)
    job, export = lock_running_job(session, run), lock_running_export(session, run)
    cancelled = (run.job_id or run.export_id) is not None and job is None and export is None
    run.outcome = RunOutcome.CANCELLED if cancelled else ending.outcome
    run.failure = None if ending.failure is None else ending.failure.model_dump()
    run.ended_at = at
    run.slots_freed_at = run.slots_freed_at or at
    if run.model_id is not None:
        _settle_model(session.get_one(Model, run.model_id), ending, settings)
    if export is not None:
        return settle_export(session, export, ending.outcome, ending.made, ending.failure, settings)
    if run.file_id is not None:
        found = ending.report or ending.failure
        return settle_check(session, run.file_id, ending.outcome, found, settings)
    return None if job is None else _settle_job(session, job, ending, settings)


def _settle_model(model: Model, ending: Ending, settings: Settings) -> None:
    failure = ending.failure
    if ending.outcome == RunOutcome.SUCCEEDED and ending.facts is not None:
        model.status, model.facts, model.error = READY, ending.facts.model_dump(mode="json"), None
    elif ending.outcome == RunOutcome.FAILED or model.attempts >= settings.max_crashes:
        model.status = ERROR
        model.error = failure.model_dump() if failure else {"message": "could not be inspected"}
    else:
        model.status = PENDING


def _settle_job(session: Session, job: Job, ending: Ending, settings: Settings) -> JobStatus:
    exhausted = _count(session, job, ending.outcome, settings)
    status = settle(ending.outcome, job.intent, exhausted=exhausted)
    if ending.trained_tokens is not None:
        job.trained_tokens = ending.trained_tokens
    if status == JobStatus.SUCCEEDED:
        _succeed(session, job, ending)
    elif status == JobStatus.FAILED:
        fail(session, job, _reason(job, ending, exhausted=exhausted))
    else:
        _go_on(session, job, ending, status)
    return status


def _count(session: Session, job: Job, outcome: RunOutcome, settings: Settings) -> bool:
    """Charge the budget the outcome belongs to; whether it is used up."""
    if outcome == RunOutcome.CRASHED:
        newest = session.scalar(
            select(func.max(Checkpoint.step)).where(
                Checkpoint.job_id == job.id, Checkpoint.deleted_at.is_(None)
            )
        )
        step = -1 if newest is None else newest
        job.crashes = 1 if step > job.crash_step else job.crashes + 1
        job.crash_step = max(step, job.crash_step)
        return job.crashes >= settings.max_crashes
    if outcome in {RunOutcome.LOST, RunOutcome.INTERRUPTED} and job.intent != Intent.PAUSE:
        job.lost_runs += 1
        return job.lost_runs >= settings.max_lost_runs
    return False


def _succeed(session: Session, job: Job, ending: Ending) -> None:
    at = now(session)
    session.add_all(
        Artifact(
            job_id=job.id, name=a.name, key=a.key, bytes=a.bytes, sha256=a.sha256, created_at=at
        )
        for a in ending.artifacts
    )
    owner = session.execute(
        select(Organization.name)
        .join(Project, Project.organization_id == Organization.id)
        .where(Project.id == job.project_id)
    ).scalar_one()
    session.add(
        Model(
            id=new_id("model_"),
            name=job.fine_tuned_model,
            project_id=job.project_id,
            job_id=job.id,
            status=READY,
            owned_by=owner,
            created_at=at,
        )
    )
    if ending.results is not None:
        job.result_file_id = _keep_results(session, job, ending.results)
    job.finished_at = at
    move(session, job, JobStatus.SUCCEEDED, f"New fine-tuned model created: {job.fine_tuned_model}")


def _keep_results(session: Session, job: Job, results: StoredArtifact) -> str:
    file = StoredFile(
        id=new_id("file-"),
        filename=results.name,
        purpose=RESULTS_PURPOSE,
        bytes=results.bytes,
        sha256=results.sha256,
        artifact_key=results.key,
    )
    return keep(session, job.project_id, file).id


def _reason(job: Job, ending: Ending, *, exhausted: bool) -> Failure:
    failure = ending.failure or Failure(
        code="unknown",
        message="the run ended without saying why",
        fault="infrastructure",
        remedy="look at the worker's log",
    )
    if not exhausted:
        return failure
    message = f"{failure.message} (given up after {job.attempt} attempts)"
    return failure.model_copy(update={"message": message})


def _go_on(session: Session, job: Job, ending: Ending, status: JobStatus) -> None:
    if status == JobStatus.QUEUED and ending.outcome == RunOutcome.CRASHED:
        job.queued_at = now(session)  # behind the others: a poisoned job must not hold them up
    cause = "" if ending.failure is None else f" ({ending.failure.message})"
    level: Level = "info" if ending.outcome == RunOutcome.INTERRUPTED else "warning"
    message = _SENTENCES[ending.outcome] if status == JobStatus.QUEUED else "The job is paused"
    move(session, job, status, message + cause, level=level)
    if status == JobStatus.PAUSED:
        job.intent = None  # it has happened; a stop has not
