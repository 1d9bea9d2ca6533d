"""Exports: a job's result, or one of its checkpoints, in another form.

Asked for once, made once: what is equal to an export that was not deleted, and has not ended
badly, is answered with it. A checkpoint that an open export needs keeps its bytes.
"""

from dataclasses import dataclass

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from jobs.database import now, serialise
from jobs.errors import Conflict, InvalidRequest, NotFound
from jobs.identity import Identity
from jobs.lists import events_page
from jobs.models import Checkpoint, Event, Export, Job, Model, Worker, new_id
from jobs.pages import Page
from jobs.repository import job_of
from jobs.requests import ExportRequest
from jobs.service.events import EVENT_TYPES, open_stream
from jobs.settings import Settings
from jobs.states import OPEN_EXPORT, ExportStatus, JobStatus
from training.config import TrainingConfig
from training.export_config import GGUF_ARCHITECTURES, ExportConfig
from training.facts import ModelFacts

CPU, LIGHT = "cpu", "light"
HUB = "hub"
"""What a worker provides that may push."""
_WORKER_SEEN_SECONDS = 60.0
_GOOD = OPEN_EXPORT | {ExportStatus.SUCCEEDED}


@dataclass(frozen=True)
class NamedExport:
    """An export, and the step of the checkpoint that it is of."""

    export: Export
    step: int | None


@dataclass(frozen=True)
class ExportFile:
    """What can be downloaded of an export."""

    key: str
    filename: str
    bytes: int
    sha256: str


def request(
    session: Session, identity: Identity, job_id: str, asked: ExportRequest, settings: Settings
) -> NamedExport:
    """A queued export, or the one that is equal to it.

    Raises:
        NotFound: The project has no such job, or the job no such checkpoint.
        Forbidden: It is a push and the asker is not an admin.
        InvalidRequest: What was trained cannot be made into that.
        Conflict: There is nothing to export yet, or no base model any more, or nobody to push it.
    """
    job, config = job_of(session, identity, job_id), asked.config
    if config.kind == "hub":
        identity.require_admin()
    serialise(session, f"exports of {job.id}")
    checkpoint = _source(session, job, asked.checkpoint)
    base = session.get_one(Model, job.model_id, with_for_update={"read": True})
    facts = _facts_of(base)
    _check_content(job, config, facts)
    export = _equal(session, job, checkpoint, config)
    if export is None:
        if config.kind == "hub":
            _check_somebody_pushes(session, job.pool)
        slot = _slot(config, facts, settings)
        export = _add(session, identity, job, checkpoint, config, slot)
    return NamedExport(export, None if checkpoint is None else checkpoint.step)


def list_exports(
    session: Session, identity: Identity, job_id: str, *, after: str | None, limit: int
) -> Page[NamedExport]:
    """The job's exports, newest first.

    Raises:
        NotFound: The project has no such job.
        InvalidRequest: `after` is not an id of this list.
    """
    job = job_of(session, identity, job_id)
    query = _named().where(Export.job_id == job.id, Export.deleted_at.is_(None))
    if after is not None:
        cursor = session.get(Export, after)
        if cursor is None or cursor.job_id != job.id:
            raise InvalidRequest(
                f"after: {after!r} is not an id of this list; give the id of the last item of a "
                "page",
                param="after",
                code="invalid_cursor",
            )
        edge = tuple_(cursor.created_at, cursor.id)
        query = query.where(tuple_(Export.created_at, Export.id) < edge)
    newest = query.order_by(Export.created_at.desc(), Export.id.desc()).limit(limit + 1)
    found = [NamedExport(export, step) for export, step in session.execute(newest)]
    return Page.of(found, limit)


def get(session: Session, identity: Identity, job_id: str, export_id: str) -> NamedExport:
    """An export of a job; raises NotFound."""
    job = job_of(session, identity, job_id)
    query = _named().where(
        Export.id == export_id, Export.job_id == job.id, Export.deleted_at.is_(None)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFound(
            f"the job has no export {export_id!r}", param="export_id", code="export_not_found"
        )
    return NamedExport(found[0], found[1])


def content(session: Session, identity: Identity, job_id: str, export_id: str) -> ExportFile:
    """The stored file of an export.

    Raises:
        NotFound: There is no such export, or it has no file (yet).
    """
    export = get(session, identity, job_id, export_id).export
    if export.artifact_key is None:
        reason = (
            f"it was pushed to {export.pushed['url']}"
            if export.pushed
            else f"its status is {export.status.value}"
        )
        raise NotFound(
            f"the export has no file: {reason}", param="export_id", code="artifact_not_found"
        )
    assert export.filename is not None
    assert export.bytes is not None
    assert export.sha256 is not None
    return ExportFile(export.artifact_key, export.filename, export.bytes, export.sha256)


def events(
    session: Session,
    identity: Identity,
    job_id: str,
    export_id: str,
    *,
    after: str | None,
    limit: int,
) -> Page[Event]:
    """What an export said, its log included, newest first.

    Raises:
        NotFound: There is no such export.
        InvalidRequest: `after` is not an id of this list.
    """
    export = get(session, identity, job_id, export_id).export
    return events_page(session, export.id, after=after, limit=limit, types=EVENT_TYPES)


def cancel(session: Session, identity: Identity, job_id: str, export_id: str) -> NamedExport:
    """End an export now; its run, if it has one, keeps its slot until its processes are gone.

    Raises:
        NotFound: There is no such export.
        Conflict: It has ended already.
    """
    found = _locked(session, identity, job_id, export_id)
    export = found.export
    if export.status == ExportStatus.CANCELLED:
        return found
    if export.status not in OPEN_EXPORT:
        raise Conflict(f"the export has {export.status.value} already", code="export_finished")
    export.status, export.phase = ExportStatus.CANCELLED, None
    export.finished_at = now(session)
    return found


def delete(session: Session, identity: Identity, job_id: str, export_id: str) -> Export:
    """Hide an export; the bytes of its file go soon after. What was pushed stays where it is.

    Raises:
        NotFound: There is no such export.
        Conflict: It is still to be made.
    """
    export = _locked(session, identity, job_id, export_id).export
    if export.status in OPEN_EXPORT:
        raise Conflict(
            f"the export is {export.status.value}; cancel it first", code="export_not_finished"
        )
    export.deleted_at = now(session)
    return export


def open_export_using(session: Session, model_id: str) -> Export | None:
    """An export that is still to be made of this base model."""
    query = select(Export).join(Job, Job.id == Export.job_id)
    return session.scalar(
        query.where(Job.model_id == model_id, Export.status.in_(OPEN_EXPORT)).limit(1)
    )


def _source(session: Session, job: Job, checkpoint_id: str | None) -> Checkpoint | None:
    """The checkpoint that is asked for, kept as it is until the commit; None: the result."""
    if checkpoint_id is None:
        if job.status != JobStatus.SUCCEEDED:
            raise Conflict(
                f"the job is {job.status.value} and has no result; name one of its checkpoints",
                param="checkpoint",
                code="no_result",
            )
        return None
    found = session.get(Checkpoint, checkpoint_id, with_for_update={"read": True})
    if found is None or found.job_id != job.id or found.deleted_at is not None:
        raise NotFound(
            f"the job has no checkpoint {checkpoint_id!r}",
            param="checkpoint",
            code="checkpoint_not_found",
        )
    return found


def _facts_of(base: Model) -> ModelFacts:
    if base.removed_at is not None:
        raise Conflict(
            f"the base model {base.name!r} is not in the catalogue any more",
            code="base_model_removed",
        )
    return ModelFacts.model_validate(base.facts)


def _check_content(job: Job, config: ExportConfig, facts: ModelFacts) -> None:
    param = "content" if config.kind == "hub" else "kind"
    whole = TrainingConfig.kept(job.training).adapter.type == "none"
    if config.made == "adapter" and whole:
        raise InvalidRequest(
            f"{param}: the job has trained every weight, so that there is no adapter; ask for "
            "'merged' or 'gguf'",
            param=param,
            code="no_adapter",
        )
    if config.made == "gguf" and facts.architecture not in GGUF_ARCHITECTURES:
        raise InvalidRequest(
            f"{param}: no GGUF file is made of a {facts.architecture}, only of "
            f"{', '.join(GGUF_ARCHITECTURES)}; ask for 'merged'",
            param=param,
            code="unsupported_architecture",
        )


def _equal(
    session: Session, job: Job, checkpoint: Checkpoint | None, config: ExportConfig
) -> Export | None:
    checkpoint_id = None if checkpoint is None else checkpoint.id
    query = select(Export).where(
        Export.job_id == job.id,
        Export.checkpoint_id == checkpoint_id,
        Export.deleted_at.is_(None),
        Export.status.in_(_GOOD),
    )
    options = config.model_dump()
    return next((e for e in session.scalars(query) if e.options == options), None)


def _add(
    session: Session,
    identity: Identity,
    job: Job,
    checkpoint: Checkpoint | None,
    config: ExportConfig,
    slot: str,
) -> Export:
    at = now(session)
    export = Export(
        id=new_id("ftexport-"),
        job_id=job.id,
        created_by=identity.key_id,
        checkpoint_id=None if checkpoint is None else checkpoint.id,
        options=config.model_dump(),
        status=ExportStatus.QUEUED,
        pool=job.pool,
        requires=HUB if config.kind == "hub" else "",
        slot=slot,
        attempt=0,
        created_at=at,
        queued_at=at,
    )
    session.add(export)
    open_stream(session, export.id)
    return export


def _slot(config: ExportConfig, facts: ModelFacts, settings: Settings) -> str:
    """Beside training, unless a model has to be held that needs the memory of a training."""
    loads = config.made != "adapter"
    return CPU if loads and facts.bytes > settings.light_export_bytes else LIGHT


def _check_somebody_pushes(session: Session, pool: str) -> None:
    """Refuse a push that no worker of the pool may do; where none is seen, one may come."""
    query = select(Worker.provides).where(
        Worker.pool == pool, Worker.seen_at > now(session) - _WORKER_SEEN_SECONDS
    )
    seen = [provides.split(",") for provides in session.scalars(query)]
    if seen and not any(HUB in each for each in seen):
        raise Conflict(
            f"no worker of pool {pool} has a token to push with; its operator sets "
            "TUNESMITH_HUB_PUSH_TOKEN",
            param="kind",
            code="no_hub_worker",
        )


def _named() -> Select[Export, int]:
    return select(Export, Checkpoint.step).outerjoin(
        Checkpoint, Checkpoint.id == Export.checkpoint_id
    )


def _locked(session: Session, identity: Identity, job_id: str, export_id: str) -> NamedExport:
    found = get(session, identity, job_id, export_id)
    session.refresh(found.export, with_for_update=True)
    if found.export.deleted_at is not None:
        raise NotFound(
            f"the job has no export {export_id!r}", param="export_id", code="export_not_found"
        )
    return found
