"""Every look-up by something a user can name, held to the user's own project.

An id of another project is answered like one that does not exist.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import NotFound
from jobs.identity import Identity
from jobs.models import (
    ApiKey,
    Checkpoint,
    CheckpointPermission,
    File,
    Job,
    JobFile,
    Model,
    Upload,
    WebhookEndpoint,
)
from jobs.names import split_checkpoint_name
from jobs.states import OPEN, JobStatus

_Query = TypeVar("_Query", bound=Select[*tuple[Any, ...]])


class Lock(Enum):
    """How a row is kept until the end of the transaction: as it is now, or to be changed."""

    KEEP = "keep"
    CHANGE = "change"


def file_of(
    session: Session, identity: Identity, file_id: str, *, lock: Lock | None = None
) -> File:
    """A file that is not hidden.

    Raises:
        NotFound: There is none of this id in the project.
    """
    values = {"file_id": file_id, "project_id": identity.project_id}
    file = session.scalar(_FILE[lock], values)
    if file is None or _is_over(session, file):
        raise NotFound(f"no file {file_id!r}", param="file_id", code="file_not_found")
    return file


def _is_over(session: Session, file: File) -> bool:
    return file.expires_at is not None and file.expires_at <= now(session)


def upload_of(
    session: Session, identity: Identity, upload_id: str, *, lock: Lock | None = None
) -> Upload:
    """An upload of the project.

    Raises:
        NotFound: There is none of this id in the project.
    """
    upload = session.get(Upload, upload_id, with_for_update=_for_update(lock))
    if upload is None or upload.project_id != identity.project_id:
        raise NotFound(f"no upload {upload_id!r}", param="upload_id", code="upload_not_found")
    return upload


def job_of(session: Session, identity: Identity, job_id: str, *, lock: Lock | None = None) -> Job:
    """A job of the project.

    Raises:
        NotFound: There is none of this id in the project.
    """
    job = session.get(Job, job_id, with_for_update=_for_update(lock))
    if job is None or job.project_id != identity.project_id:
        raise NotFound(f"no fine-tuning job {job_id!r}", param="job_id", code="job_not_found")
    return job


def key_of(session: Session, identity: Identity, key_id: str) -> ApiKey:
    """A key of the project.

    Raises:
        NotFound: There is none of this id in the project.
    """
    key = session.get(ApiKey, key_id)
    if key is None or key.project_id != identity.project_id:
        raise NotFound(f"no API key {key_id!r}", param="key_id", code="key_not_found")
    return key


def model_of(session: Session, identity: Identity, name: str, *, lock: Lock | None = None) -> Model:
    """A base model, or a tuned model of the project or one that it may use.

    Raises:
        NotFound: There is none of this name.
    """
    model = session.scalar(_MODEL[lock], {"name": name, "project_id": identity.project_id})
    if model is None:
        raise no_model(name)
    return model


def named_checkpoint(session: Session, identity: Identity, name: str) -> tuple[Checkpoint, Job]:
    """A checkpoint that the project owns or may use, by its name as a model, and its job.

    Raises:
        NotFound: There is none of this name.
    """
    parts = split_checkpoint_name(name)
    if parts is None:
        raise no_model(name)
    values = {
        "tuned": parts[0],
        "step": parts[1],
        "name": name,
        "project_id": identity.project_id,
    }
    found = session.execute(_NAMED_CHECKPOINT, values).one_or_none()
    if found is None:
        raise no_model(name)
    return found[0], found[1]


def owner_of_model(
    session: Session, identity: Identity, name: str, *, lock: Lock | None = None
) -> str | None:
    """The project that has tuned what the asker sees under this name; None: a base model.

    `lock` is of what the name stands for: the model, or the job of the checkpoint.

    Raises:
        NotFound: There is none of this name.
    """
    if split_checkpoint_name(name) is None:
        return model_of(session, identity, name, lock=lock).project_id
    _, job = named_checkpoint(session, identity, name)
    return session.get_one(Job, job.id, with_for_update=_for_update(lock)).project_id


def no_model(name: str) -> NotFound:
    return NotFound(f"no model {name!r}", param="model", code="model_not_found")


def models_of(session: Session, identity: Identity) -> list[Model]:
    return list(session.scalars(_MODELS, {"project_id": identity.project_id}))


def endpoint_of(
    session: Session, identity: Identity, endpoint_id: str, *, lock: Lock | None = None
) -> WebhookEndpoint:
    """A webhook endpoint of the project.

    Raises:
        NotFound: There is none of this id in the project.
    """
    endpoint = session.get(WebhookEndpoint, endpoint_id, with_for_update=_for_update(lock))
    is_ours = endpoint is not None and endpoint.project_id == identity.project_id
    if endpoint is None or not is_ours or endpoint.deleted_at is not None:
        raise NotFound(
            f"no webhook endpoint {endpoint_id!r}",
            param="webhook_endpoint_id",
            code="webhook_endpoint_not_found",
        )
    return endpoint


def _for_update(lock: Lock | None) -> dict[str, bool] | None:
    return None if lock is None else {"read": lock == Lock.KEEP}


def permitted_names(session: Session, identity: Identity) -> list[str]:
    """The names of other projects' models and checkpoints that this one may use."""
    query = select(CheckpointPermission.checkpoint_name).where(
        CheckpointPermission.project_id == identity.project_id
    )
    return list(session.scalars(query.order_by(CheckpointPermission.created_at.desc())))


def files_of_job(session: Session, job_id: str) -> list[JobFile]:
    return files_of_jobs(session, [job_id])


def files_of_jobs(session: Session, job_ids: Sequence[str]) -> list[JobFile]:
    """What these jobs read, each job's by role and position."""
    return list(session.scalars(_FILES_OF_JOBS, {"job_ids": list(job_ids)}))


def open_job_using(session: Session, model_id: str) -> Job | None:
    return session.scalar(
        select(Job).where(Job.model_id == model_id, Job.status.in_(OPEN)).limit(1)
    )


def jobs_ahead(session: Session, job: Job) -> int:
    """Queued jobs of the pool that come before this one when nobody has anything running."""
    values = {
        "pool": job.pool,
        "priority": job.priority,
        "queued_at": job.queued_at,
        "job_id": job.id,
    }
    return session.scalar(_JOBS_AHEAD, values) or 0


# Built once: every job that is made or looked at asks these, and building takes longer than asking.
_FILES_OF_JOBS = (
    select(JobFile)
    .where(JobFile.job_id.in_(bindparam("job_ids", expanding=True)))
    .order_by(JobFile.role, JobFile.position)
)
_JOBS_AHEAD = select(func.count()).where(
    Job.status == JobStatus.QUEUED,
    Job.pool == bindparam("pool"),
    # Spelled out so that the index answers: the row itself is read only for a tie in time.
    or_(
        Job.priority > bindparam("priority"),
        and_(
            Job.priority == bindparam("priority"),
            or_(
                Job.queued_at < bindparam("queued_at"),
                and_(Job.queued_at == bindparam("queued_at"), Job.id < bindparam("job_id")),
            ),
        ),
    ),
)


def _by_lock(query: _Query) -> dict[Lock | None, _Query]:
    return {
        None: query,
        Lock.KEEP: query.with_for_update(read=True),
        Lock.CHANGE: query.with_for_update(),
    }


def _permitted(name: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether another project lets this one use what has this name."""
    query = select(CheckpointPermission.id).where(
        CheckpointPermission.checkpoint_name == name,
        CheckpointPermission.project_id == bindparam("project_id"),
    )
    return query.exists()


_VISIBLE = and_(
    or_(
        Model.project_id.is_(None),
        Model.project_id == bindparam("project_id"),
        _permitted(Model.name.expression),
    ),
    Model.removed_at.is_(None),
)
_MODEL = _by_lock(select(Model).where(Model.name == bindparam("name"), _VISIBLE))
_MODELS = select(Model).where(_VISIBLE).order_by(Model.created_at.desc(), Model.id)
_NAMED_CHECKPOINT = (
    select(Checkpoint, Job)
    .join(Job, Job.id == Checkpoint.job_id)
    .where(
        Job.fine_tuned_model == bindparam("tuned"),
        Checkpoint.step == bindparam("step"),
        Checkpoint.deleted_at.is_(None),
        or_(Job.project_id == bindparam("project_id"), _permitted(bindparam("name"))),
    )
)
_FILE = _by_lock(
    select(File).where(
        File.id == bindparam("file_id"),
        File.project_id == bindparam("project_id"),
        File.deleted_at.is_(None),
    )
)
