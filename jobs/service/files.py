"""Uploaded files: their rows are checked while they arrive; a deleted one is only hidden."""

from dataclasses import asdict, dataclass

from sqlalchemy.orm import Session

from jobs.database import now
from jobs.identity import Identity
from jobs.models import File
from jobs.pages import Page
from jobs.repository import Lock, file_of, files_page
from training.formats import FileReport

_ERRORS_IN_DETAILS = 3


@dataclass(frozen=True)
class Upload:
    """A file whose bytes are stored; `report` for those that are training data."""

    id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    artifact_key: str
    report: FileReport | None


def artifact_key(file_id: str) -> str:
    return f"files/{file_id}"


def add(session: Session, identity: Identity, upload: Upload) -> File:
    """Keep what is known of a stored upload."""
    report = upload.report
    bad = report is not None and report.num_errors > 0
    file = File(
        id=upload.id,
        project_id=identity.project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=upload.bytes,
        sha256=upload.sha256,
        artifact_key=upload.artifact_key,
        status="error" if bad else "processed",
        status_details=summary(report) if report is not None and bad else None,
        format=report.format if report else None,
        num_rows=report.num_rows if report else None,
        report=asdict(report) if report else None,
        created_at=now(session),
    )
    session.add(file)
    return file


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


def summary(report: FileReport) -> str:
    """The first few row errors in one string."""
    lines = [f"line {error.line}: {error.reason}" for error in report.errors[:_ERRORS_IN_DETAILS]]
    more = report.num_errors - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
