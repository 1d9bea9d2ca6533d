"""The lists that users page through, each held to what they may see.

A page follows the item that its cursor names, which must be, or have been, one of the same list.
"""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, or_, select, tuple_
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import InvalidRequest
from jobs.identity import Identity
from jobs.metadata import find
from jobs.models import Checkpoint, CheckpointPermission, Event, File, Job, WebhookEndpoint
from jobs.pages import Page, Span

_Dated = TypeVar("_Dated", File, Job, CheckpointPermission, WebhookEndpoint)
_Item = TypeVar("_Item", File, Job, CheckpointPermission, WebhookEndpoint, Checkpoint, Event)


def files_page(
    session: Session,
    identity: Identity,
    *,
    after: str | None,
    limit: int,
    descending: bool,
    purpose: str | None,
) -> Page[File]:
    is_ours = File.project_id == identity.project_id
    query = select(File).where(is_ours, File.deleted_at.is_(None))
    query = query.where(or_(File.expires_at.is_(None), File.expires_at > now(session)))
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    cursor = _cursor(session, File, after, is_ours)
    return _page(session, query, File, cursor, limit=limit, descending=descending)


def endpoints_page(
    session: Session, identity: Identity, *, after: str | None, limit: int
) -> Page[WebhookEndpoint]:
    """Webhook endpoints, newest first."""
    is_ours = WebhookEndpoint.project_id == identity.project_id
    query = select(WebhookEndpoint).where(is_ours, WebhookEndpoint.deleted_at.is_(None))
    cursor = _cursor(session, WebhookEndpoint, after, is_ours)
    return _page(session, query, WebhookEndpoint, cursor, limit=limit, descending=True)


def jobs_page(
    session: Session,
    identity: Identity,
    *,
    after: str | None,
    limit: int,
    metadata: dict[str, str] | None,
) -> Page[Job]:
    """Jobs, newest first; `metadata` `{}` asks for jobs that have none."""
    is_ours = Job.project_id == identity.project_id
    cursor = _cursor(session, Job, after, is_ours)
    if metadata:
        ids = find(session, identity.project_id, metadata, older_than=cursor, limit=limit + 1)
        found = session.scalars(select(Job).where(Job.id.in_(ids)))
        return Page.of(sorted(found, key=lambda job: ids.index(job.id)), limit)
    query = select(Job).where(is_ours)
    if metadata == {}:
        query = query.where(Job.user_metadata.is_(None))
    return _page(session, query, Job, cursor, limit=limit, descending=True)


def permissions_page(
    session: Session, name: str, span: Span, *, project_id: str | None
) -> Page[CheckpointPermission]:
    """Who may use the model of this name, which belongs to the asker."""
    is_of_model = CheckpointPermission.checkpoint_name == name
    query = select(CheckpointPermission).where(is_of_model)
    if project_id is not None:
        query = query.where(CheckpointPermission.project_id == project_id)
    cursor = _cursor(session, CheckpointPermission, span.after, is_of_model)
    limit, descending = span.limit, span.descending
    return _page(session, query, CheckpointPermission, cursor, limit=limit, descending=descending)


def checkpoints_page(
    session: Session, job: Job, *, after: str | None, limit: int
) -> Page[Checkpoint]:
    """The job's checkpoints that were not deleted, newest first."""
    is_of_job = Checkpoint.job_id == job.id
    query = select(Checkpoint).where(is_of_job, Checkpoint.deleted_at.is_(None))
    if (cursor := _cursor(session, Checkpoint, after, is_of_job)) is not None:
        query = query.where(Checkpoint.step < cursor.step)
    newest_first = query.order_by(Checkpoint.step.desc())
    return Page.of(session.scalars(newest_first.limit(limit + 1)).all(), limit)


def events_page(
    session: Session, stream_id: str, *, after: str | None, limit: int, types: Sequence[str]
) -> Page[Event]:
    """Events of these types, newest first, without what a later attempt has replaced."""
    is_of_stream = Event.stream_id == stream_id
    query = select(Event).where(is_of_stream, Event.type.in_(types), Event.superseded.is_(False))
    if (cursor := _cursor(session, Event, after, is_of_stream)) is not None:
        query = query.where(Event.seq < cursor.seq)
    newest_first = query.order_by(Event.seq.desc())
    return Page.of(session.scalars(newest_first.limit(limit + 1)).all(), limit)


def _cursor(
    session: Session, table: type[_Item], after: str | None, is_of_list: ColumnElement[bool]
) -> _Item | None:
    """The last item of the page before; None: this is the first page.

    Raises:
        InvalidRequest: The list has no item of this id.
    """
    if after is None:
        return None
    item = session.scalar(select(table).where(table.id == after, is_of_list))
    if item is None:
        raise InvalidRequest(
            f"after: {after!r} is not an id of this list; give the id of the last item of a page",
            param="after",
            code="invalid_cursor",
        )
    return item


def _page(
    session: Session,
    query: Select[_Dated],
    table: type[_Dated],
    cursor: _Dated | None,
    *,
    limit: int,
    descending: bool,
) -> Page[_Dated]:
    columns = (table.created_at, table.id)
    position = tuple_(*columns)
    if cursor is not None:
        edge = tuple_(cursor.created_at, cursor.id)
        query = query.where(position < edge if descending else position > edge)
    ordered = query.order_by(*(c.desc() if descending else c.asc() for c in columns))
    return Page.of(session.scalars(ordered.limit(limit + 1)).all(), limit)
