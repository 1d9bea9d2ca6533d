"""API keys: made once, shown once, kept as a hash."""

import hashlib
import secrets

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import Conflict, InvalidRequest, Unauthenticated
from jobs.identity import Identity, Role
from jobs.models import ApiKey, Organization, Project, new_id
from jobs.repository import key_of
from jobs.settings import Settings

_PREFIX = "sk-tunesmith-"


def bootstrap(session: Session, settings: Settings) -> str | None:
    """Make the organisation, its default project and the first admin key, where there are none.

    Returns:
        The key's secret when it was made now: the only time that it is known.
    """
    if session.scalar(select(ApiKey.id).limit(1)) is not None:
        return None
    at = now(session)
    organization = Organization(id=new_id("org-"), name=settings.organization, created_at=at)
    session.add(organization)
    session.flush()
    project = Project(
        id=new_id("proj_"), organization_id=organization.id, name="default", created_at=at
    )
    session.add(project)
    session.flush()
    return _add(session, project.id, name="first admin key", role="admin")[1]


def authenticate(session: Session, secret: str) -> Identity:
    """Who a secret belongs to.

    Raises:
        Unauthenticated: It is not a key, or one that was revoked.
    """
    found = session.execute(
        select(ApiKey, Organization.name)
        .join(Project, Project.id == ApiKey.project_id)
        .join(Organization, Organization.id == Project.organization_id)
        .where(ApiKey.sha256 == _hash(secret), ApiKey.revoked_at.is_(None))
    ).one_or_none()
    if found is None:
        raise Unauthenticated("the API key is not valid", code="invalid_api_key")
    key, organization = found
    return Identity(
        key_id=key.id, project_id=key.project_id, organization=organization, role=key.role
    )


def create(
    session: Session, identity: Identity, *, name: str, role: Role, project: str | None = None
) -> tuple[ApiKey, str]:
    """A new key of the asker's project, or the first one of a new project, and its secret.

    Args:
        session: The transaction.
        identity: Who asks.
        name: Whose key it is, or what for.
        role: What it may do.
        project: The name of a project to make in the organisation.

    Raises:
        Forbidden: The asker is not an admin.
        InvalidRequest: The project exists: the keys of another one are its own admins' to make.
    """
    identity.require_admin()
    own = session.get_one(Project, identity.project_id)
    if project is None or project == own.name:
        return _add(session, own.id, name=name, role=role)
    return _add(session, _add_project(session, own, project, role).id, name=name, role=role)


def _add_project(session: Session, own: Project, name: str, role: Role) -> Project:
    if role != "admin":
        raise InvalidRequest(
            f"role: {role!r}, but the first key of the new project {name!r} is its admin's, who "
            "makes the others; give 'admin'",
            param="role",
            code="project_without_admin",
        )
    project = Project(
        id=new_id("proj_"),
        organization_id=own.organization_id,
        name=name,
        created_at=now(session),
    )
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError as error:
        raise InvalidRequest(
            f"project: {name!r} exists already; its keys are made by its own admins",
            param="project",
            code="project_exists",
        ) from error
    return project


def list_keys(session: Session, identity: Identity) -> list[ApiKey]:
    """The keys of the project that were not revoked, newest first.

    Raises:
        Forbidden: The asker is not an admin.
    """
    identity.require_admin()
    return list(session.scalars(_valid_keys(identity)))


def revoke(session: Session, identity: Identity, key_id: str) -> ApiKey:
    """Make a key worthless from now on.

    Raises:
        Forbidden: The asker is not an admin.
        NotFound: The project has no such key.
        Conflict: It is the project's last admin key.
    """
    identity.require_admin()
    keys = list(session.scalars(_valid_keys(identity).with_for_update()))
    key = key_of(session, identity, key_id)
    if [other.id for other in keys if other.role == "admin"] == [key.id]:
        raise Conflict(
            "this is the project's last admin key; create another one before revoking it",
            code="last_admin_key",
        )
    key.revoked_at = key.revoked_at or now(session)
    return key


def _valid_keys(identity: Identity) -> Select[ApiKey]:
    query = select(ApiKey).where(
        ApiKey.project_id == identity.project_id, ApiKey.revoked_at.is_(None)
    )
    return query.order_by(ApiKey.created_at.desc(), ApiKey.id)


def _add(session: Session, project_id: str, *, name: str, role: Role) -> tuple[ApiKey, str]:
    secret = _PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key_"),
        project_id=project_id,
        name=name,
        role=role,
        sha256=_hash(secret),
        last4=secret[-4:],
        created_at=now(session),
    )
    session.add(key)
    return key, secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
