"""The models: base models that admins add, and what was tuned here."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import Conflict, InvalidRequest
from jobs.identity import Identity
from jobs.models import Model, new_id
from jobs.repository import Lock, model_of, models_of, open_job_using
from jobs.requests import ModelRequest
from jobs.service.events import open_stream

PENDING, READY, ERROR = "pending", "ready", "error"


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


def list_models(session: Session, identity: Identity) -> list[Model]:
    """The base models, and what this project has tuned, newest first."""
    return models_of(session, identity)


def get(session: Session, identity: Identity, name: str) -> Model:
    """A model by its name; raises NotFound."""
    return model_of(session, identity, name)


def remove(session: Session, identity: Identity, name: str) -> Model:
    """Take a model out of the catalogue; the files of its job stay.

    Raises:
        NotFound: There is no such model.
        Forbidden: It is a base model, and the asker is not an admin.
        Conflict: It is a base model that an open job needs.
    """
    model = model_of(session, identity, name, lock=Lock.CHANGE)
    if model.project_id is None:
        identity.require_admin()
        if (job := open_job_using(session, model.id)) is not None:
            raise Conflict(f"model {name!r} is in use by job {job.id}", code="model_in_use")
    model.removed_at = now(session)
    return model
