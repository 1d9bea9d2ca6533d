"""Jobs by their metadata.

Its pairs are kept in a table of their own: inside the JSON of a hundred thousand jobs no database
of ours finds them in time.
"""

from sqlalchemy import Select, func, insert, select, tuple_
from sqlalchemy.orm import Session, aliased

from jobs.models import Job, JobMetadata, table_of

_INSERT = insert(table_of(JobMetadata))
_FEW = 1000
"""Pairs that more jobs have than this are all the same to a search."""


def index(session: Session, job: Job) -> None:
    """Let a new job be found by its metadata."""
    if job.user_metadata:
        shared = {"job_id": job.id, "project_id": job.project_id, "created_at": job.created_at}
        pairs = job.user_metadata.items()
        session.execute(_INSERT, [shared | {"key": key, "value": value} for key, value in pairs])


def find(
    session: Session, project_id: str, wanted: dict[str, str], *, older_than: Job | None, limit: int
) -> list[str]:
    """The ids of the newest jobs of a project that have all of the pairs, which are some.

    The pair that fewest jobs have is walked by its index; the others are looked up job by job.
    """
    pairs = list(wanted.items())
    if len(pairs) > 1:
        pairs.sort(key=lambda pair: _frequency(session, project_id, *pair))
    (key, value), *others = pairs
    query = _having(project_id, key, value)
    for key, value in others:
        other = aliased(JobMetadata)
        same_job = select(other.job_id).where(other.job_id == JobMetadata.job_id)
        query = query.where(same_job.where(other.key == key, other.value == value).exists())
    if older_than is not None:
        position = tuple_(JobMetadata.created_at, JobMetadata.job_id)
        query = query.where(position < tuple_(older_than.created_at, older_than.id))
    newest = query.order_by(JobMetadata.created_at.desc(), JobMetadata.job_id.desc())
    return list(session.scalars(newest.limit(limit)))


def _frequency(session: Session, project_id: str, key: str, value: str) -> int:
    some = _having(project_id, key, value).limit(_FEW).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def _having(project_id: str, key: str, value: str) -> Select[str]:
    return select(JobMetadata.job_id).where(
        JobMetadata.project_id == project_id, JobMetadata.key == key, JobMetadata.value == value
    )
