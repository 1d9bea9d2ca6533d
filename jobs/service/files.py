"""Uploaded files: their rows are checked while they arrive; a deleted one is only hidden."""

from dataclasses import asdict, dataclass

from sqlalchemy import update
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import InvalidRequest
from jobs.identity import Identity
from jobs.lists import files_page
from jobs.models import File
from jobs.pages import Page
from jobs.repository import Lock, file_of
from jobs.service.events import open_stream
from jobs.states import FileStatus
from training.data_config import ContainerName
from training.file_check import FileReport, word_of_place

CHECKED_PURPOSE = "fine-tune"
RESULTS_PURPOSE = "fine-tune-results"
_ERRORS_IN_DETAILS = 3
_MAX_FILENAME_CHARS = 255


@dataclass(frozen=True)
class StoredFile:
    """A file whose bytes are stored; `report` for training data that is checked."""

    id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    artifact_key: str
    report: FileReport | None = None
    container: ContainerName | None = None
    """Of training data; without a report it is still to be checked."""
    expires_after_seconds: int | None = None


def artifact_key(file_id: str) -> str:
    return f"files/{file_id}"


def plain_filename(given: str, *, param: str) -> str:
    """A name without its path; raises InvalidRequest on one that no list can show."""
    name = given.replace("\\", "/").rpartition("/")[2].strip()
    if not name or len(name) > _MAX_FILENAME_CHARS or not name.isprintable():
        raise InvalidRequest(
            f"{param}: a filename has 1 to {_MAX_FILENAME_CHARS} printable characters",
            param=param,
            code="invalid_filename",
        )
    return name


def add(session: Session, identity: Identity, stored: StoredFile) -> File:
    """Keep what is known of a file whose bytes are stored."""
    return keep(session, identity.project_id, stored)


def keep(session: Session, project_id: str, stored: StoredFile) -> File:
    """As `add`, where nobody asks: for what the service itself makes."""
    at, is_checked = now(session), stored.container is None or stored.report is not None
    file = File(
        id=stored.id,
        project_id=project_id,
        filename=stored.filename,
        purpose=stored.purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        artifact_key=stored.artifact_key,
        status=FileStatus.PROCESSED if is_checked else FileStatus.UPLOADED,
        container=stored.container,
        created_at=at,
        expires_at=None
        if stored.expires_after_seconds is None
        else at + stored.expires_after_seconds,
    )
    if stored.report is not None:
        note_report(file, stored.report)
    if not is_checked:
        open_stream(session, file.id)
    session.add(file)
    return file


def note_report(file: File, report: FileReport) -> None:
    """Keep what the check of a file has found."""
    is_bad = report.num_errors > 0
    file.status = FileStatus.ERROR if is_bad else FileStatus.PROCESSED
    file.status_details = summary(report) if is_bad else None
    file.container, file.format = report.container, report.format
    file.num_rows, file.report = report.num_rows, asdict(report)


def get(session: Session, identity: Identity, file_id: str) -> File:
    """A file of the project; raises NotFound."""
    return file_of(session, identity, file_id)


def list_files(
    session: Session,
    identity: Identity,
    *,
    after: str | None,
    limit: int,
    descending: bool = True,
    purpose: str | None = None,
) -> Page[File]:
    return files_page(
        session, identity, after=after, limit=limit, descending=descending, purpose=purpose
    )


def delete(session: Session, identity: Identity, file_id: str) -> File:
    """Hide a file at once; its bytes stay until no job needs them. Raises NotFound."""
    file = file_of(session, identity, file_id, lock=Lock.CHANGE)
    file.deleted_at = now(session)
    return file


def hide_expired(session: Session) -> None:
    """Hide the files whose time is over, and wait, as `delete` does, for whoever uses one now."""
    session.execute(
        update(File)
        .where(File.expires_at <= now(session), File.deleted_at.is_(None))
        .values(deleted_at=File.expires_at)
        .execution_options(synchronize_session=False)
    )


def summary(report: FileReport) -> str:
    """The first few row errors in one string."""
    word = word_of_place(report.container)
    lines = [f"{word} {error.line}: {error.reason}" for error in report.errors[:_ERRORS_IN_DETAILS]]
    more = report.num_errors - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
