"""The models: base models that admins add, and what was tuned here."""

import contextlib
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound
from jobs.identity import Identity
from jobs.models import Checkpoint, Job, Model, new_id
from jobs.names import split_checkpoint_name
from jobs.repository import (
    Lock,
    model_of,
    models_of,
    named_checkpoint,
    open_job_using,
    owner_of_model,
    permitted_names,
)
from jobs.requests import ModelRequest
from jobs.service.events import open_stream
from jobs.service.exports import open_export_using
from jobs.states import OPEN

PENDING, READY, ERROR = "pending", "ready", "error"


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint under the name it has as a model."""

    name: str
    checkpoint: Checkpoint
    job: Job


def add(session: Session, identity: Identity, request: ModelRequest) -> Model:
    """Put a base model into the catalogue; a worker reads its facts next.

    Raises:
        Forbidden: The asker is not an admin.
        InvalidRequest: The name is taken.
    """
    identity.require_admin()
    if session.scalar(_taken(request.name)) is not None:
        raise InvalidRequest(
            f"name: {request.name!r} is in the catalogue already; remove it first, or choose "
            "another name",
            param="name",
            code="model_exists",
        )
    model = Model(
        id=new_id("model_"),
        name=request.name,
        source=request.source,
        revision=request.revision,
        status=PENDING,
        owned_by=identity.organization,
        created_at=now(session),
    )
    session.add(model)
    open_stream(session, model.id)
    return model


def _taken(name: str) -> Select[str]:
    return select(Model.id).where(Model.name == name, Model.removed_at.is_(None))


def list_models(session: Session, identity: Identity) -> list[Model | NamedCheckpoint]:
    """The base models, what this project has tuned, and what it may use of others.

    Newest first; checkpoints come last, and only those of others: the project's own are listed
    with their jobs.
    """
    checkpoints = []
    for name in permitted_names(session, identity):
        if split_checkpoint_name(name) is not None:
            with contextlib.suppress(NotFound):
                checkpoints.append(_checkpoint(session, identity, name))
    return [*models_of(session, identity), *checkpoints]


def get(session: Session, identity: Identity, name: str) -> Model | NamedCheckpoint:
    """A model by its name, or a checkpoint by the name it has as a model; raises NotFound."""
    if split_checkpoint_name(name) is not None:
        return _checkpoint(session, identity, name)
    return model_of(session, identity, name)


def remove(session: Session, identity: Identity, name: str) -> None:
    """Take a model out of the catalogue; the files of its job stay. A checkpoint is hidden.

    Raises:
        NotFound: There is no such model.
        Forbidden: It is a base model and the asker is not an admin, or it is another project's.
        Conflict: An open job needs it.
    """
    owner = owner_of_model(session, identity, name, lock=Lock.CHANGE)
    if owner is not None and owner != identity.project_id:
        raise Forbidden(
            f"model {name!r} belongs to another project, which lets this one use it",
            code="not_the_owner",
        )
    if split_checkpoint_name(name) is not None:
        _hide(session, _checkpoint(session, identity, name))
        return
    model = model_of(session, identity, name)
    if model.project_id is None:
        identity.require_admin()
        if (job := open_job_using(session, model.id)) is not None:
            raise Conflict(f"model {name!r} is in use by job {job.id}", code="model_in_use")
        if (export := open_export_using(session, model.id)) is not None:
            raise Conflict(f"model {name!r} is in use by export {export.id}", code="model_in_use")
    model.removed_at = now(session)


def _checkpoint(session: Session, identity: Identity, name: str) -> NamedCheckpoint:
    return NamedCheckpoint(name, *named_checkpoint(session, identity, name))


def _hide(session: Session, named: NamedCheckpoint) -> None:
    if named.job.status in OPEN:
        raise Conflict(
            f"model {named.name!r} is a checkpoint of job {named.job.id}, which may go on from it; "
            "wait for its end, or cancel it",
            code="model_in_use",
        )
    named.checkpoint.deleted_at = now(session)
