"""The check of a file that is not checked as it arrives: its run, and what its end makes of it.

These are called by the claim, and by the end of a run. A lost or crashed run is tried again within
the budget of an inspection; one that a draining worker hands back costs nothing.
"""

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from jobs.models import File, Job, JobFile, Run
from jobs.service.files import note_report
from jobs.service.validation import settle_waiting
from jobs.settings import Settings
from jobs.states import OPEN, FileStatus, JobStatus, RunOutcome
from training.data_config import ContainerName
from training.events import Failure
from training.file_check import FileReport


@dataclass(frozen=True)
class CheckAssignment:
    """A file that is to be fetched from the store, compared with its hash, and checked."""

    file_id: str
    artifact_key: str
    sha256: str
    container: ContainerName


def next_file(session: Session) -> File | None:
    """The file that has waited longest for its check, locked: one that is there, or needed."""
    held = select(Run.file_id).where(Run.ended_at.is_(None), Run.file_id.is_not(None))
    needed = select(JobFile.file_id).join(Job).where(Job.status.in_(OPEN))
    query = select(File).where(
        File.status == FileStatus.UPLOADED,
        File.purged_at.is_(None),
        or_(File.deleted_at.is_(None), File.id.in_(needed)),
        File.id.not_in(held),
    )
    oldest = query.order_by(File.created_at, File.id).limit(1)
    return session.scalar(oldest.with_for_update(skip_locked=True))


def begin_check(file: File, run: Run) -> None:
    """Give a locked file to a run."""
    file.attempts += 1
    run.file_id, run.attempt = file.id, file.attempts


def check_assignment(session: Session, file_id: str | None) -> CheckAssignment:
    """What the run of a check is to do."""
    file = session.get_one(File, file_id)
    assert file.container is not None
    return CheckAssignment(file.id, file.artifact_key, file.sha256, file.container)


def settle_check(
    session: Session,
    file_id: str,
    outcome: RunOutcome,
    found: FileReport | Failure | None,
    settings: Settings,
) -> JobStatus | None:
    """What the end of its run makes of a file, and of the jobs that wait for it.

    Returns:
        `queued` if there is something for a worker to do now.
    """
    file = session.get_one(File, file_id, with_for_update=True, populate_existing=True)
    if outcome == RunOutcome.SUCCEEDED and isinstance(found, FileReport):
        note_report(file, found)
    elif outcome == RunOutcome.FAILED or file.attempts >= settings.max_crashes:
        file.status = FileStatus.ERROR
        file.status_details = found.message if isinstance(found, Failure) else "it was not checked"
    else:
        if outcome == RunOutcome.INTERRUPTED:
            file.attempts -= 1
        return JobStatus.QUEUED
    return JobStatus.QUEUED if settle_waiting(session, file) else None
