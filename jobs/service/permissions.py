"""Which other projects may use what a project has tuned: a job's result, or a checkpoint.

A permission is given by name. Who has one sees the model and can start jobs from it; the files and
the job behind it stay with the project that owns it.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import InvalidRequest, NotFound
from jobs.identity import Identity
from jobs.lists import permissions_page
from jobs.models import CheckpointPermission, Organization, Project, new_id
from jobs.pages import Page, Span
from jobs.repository import Lock, no_model, owner_of_model


def create(
    session: Session, identity: Identity, name: str, project_ids: Sequence[str]
) -> list[CheckpointPermission]:
    """Let projects of the organisation use a model; those that may already are answered as well.

    Raises:
        Forbidden: The asker is not an admin.
        NotFound: The project has no such model.
        InvalidRequest: One of the ids is no other project of the organisation.
    """
    _check_owner(session, identity, name, lock=Lock.CHANGE)
    known = _projects(session, identity)
    for position, project_id in enumerate(project_ids):
        if project_id not in known or project_id == identity.project_id:
            raise _no_project(position, project_id, known - {identity.project_id})
    found = {p.project_id: p for p in _permissions(session, name)}
    for project_id in project_ids:
        if project_id not in found:
            found[project_id] = CheckpointPermission(
                id=new_id("cp_"),
                checkpoint_name=name,
                owner_project_id=identity.project_id,
                project_id=project_id,
                created_at=now(session),
            )
            session.add(found[project_id])
    return [found[project_id] for project_id in dict.fromkeys(project_ids)]


def list_permissions(
    session: Session,
    identity: Identity,
    name: str,
    span: Span,
    *,
    project_id: str | None,
) -> Page[CheckpointPermission]:
    """Who may use a model.

    Raises:
        Forbidden: The asker is not an admin.
        NotFound: The project has no such model.
        InvalidRequest: `span.after` is not an id of this list.
    """
    _check_owner(session, identity, name)
    return permissions_page(session, name, span, project_id=project_id)


def delete(
    session: Session, identity: Identity, name: str, permission_id: str
) -> CheckpointPermission:
    """Take a permission back; jobs that have started from the model go on.

    Raises:
        Forbidden: The asker is not an admin.
        NotFound: The project has no such model, or the model no such permission.
    """
    _check_owner(session, identity, name)
    permission = session.get(CheckpointPermission, permission_id)
    if permission is None or permission.checkpoint_name != name:
        raise NotFound(
            f"no permission {permission_id!r} of {name!r}",
            param="permission_id",
            code="permission_not_found",
        )
    session.delete(permission)
    return permission


def _check_owner(
    session: Session, identity: Identity, name: str, *, lock: Lock | None = None
) -> None:
    identity.require_admin()
    if owner_of_model(session, identity, name, lock=lock) != identity.project_id:
        raise no_model(name)


def _permissions(session: Session, name: str) -> Iterator[CheckpointPermission]:
    query = select(CheckpointPermission).where(CheckpointPermission.checkpoint_name == name)
    yield from session.scalars(query)


def _projects(session: Session, identity: Identity) -> frozenset[str]:
    query = select(Project.id).join(Organization, Organization.id == Project.organization_id)
    return frozenset(session.scalars(query.where(Organization.name == identity.organization)))


def _no_project(position: int, project_id: str, others: frozenset[str]) -> InvalidRequest:
    known = ", ".join(sorted(others)) or "none yet: `POST /v1/api_keys` with `project` makes one"
    return InvalidRequest(
        f"project_ids.{position}: {project_id!r} is no other project of the organisation; "
        f"there are {known}",
        param=f"project_ids.{position}",
        code="project_not_found",
    )
