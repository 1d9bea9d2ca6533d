"""Endpoints that are told how jobs end, and what is on its way to them.

A delivery is a row that is made in the transaction that ends the job, so none is lost: whoever
takes it has it for a lease, and puts it back until the endpoint took it.
"""

import base64
import hashlib
import hmac
import json
import random
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import Conflict
from jobs.identity import Identity
from jobs.lists import endpoints_page
from jobs.models import Job, WebhookDelivery, WebhookEndpoint, new_id
from jobs.pages import Page
from jobs.repository import Lock, endpoint_of
from jobs.settings import Settings
from jobs.states import JobStatus

EVENT_TYPES = {
    JobStatus.SUCCEEDED: "fine_tuning.job.succeeded",
    JobStatus.FAILED: "fine_tuning.job.failed",
    JobStatus.CANCELLED: "fine_tuning.job.cancelled",
}
LEASE_SECONDS = 60
"""How long a delivery belongs to whoever took it: longer than any try takes."""
_MAX_ENDPOINTS = 50
_PREFIX = "whsec_"
_OLD_SECRET_SECONDS = 24 * 3600
_MAX_PAUSE_SECONDS = 6 * 3600
_KEPT_SECONDS = 7 * 24 * 3600
_BATCH = 1000
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Parcel:
    """One event as it is sent to one endpoint."""

    delivery_id: str
    url: str
    secrets: tuple[str, ...]
    event: dict[str, Any]
    attempt: int = 1

    def signed(self, at: int) -> tuple[dict[str, str], bytes]:
        """Headers and body after the Standard Webhooks, sent at `at` in Unix seconds.

        One signature for each secret that is valid: a receiver may know either.
        """
        body = json.dumps(self.event, separators=(",", ":")).encode()
        content = f"{self.delivery_id}.{at}.".encode() + body
        signatures = [
            hmac.digest(base64.b64decode(secret.removeprefix(_PREFIX)), content, hashlib.sha256)
            for secret in self.secrets
        ]
        headers = {
            "content-type": "application/json",
            "webhook-id": self.delivery_id,
            "webhook-timestamp": str(at),
            "webhook-signature": " ".join(
                f"v1,{base64.b64encode(signature).decode()}" for signature in signatures
            ),
        }
        return headers, body


def create(
    session: Session, identity: Identity, *, name: str, url: str, event_types: list[str]
) -> WebhookEndpoint:
    """A new endpoint, whose `secret` is told this once.

    Raises:
        Forbidden: The asker is no admin.
        Conflict: The project has as many as it may.
    """
    identity.require_admin()
    existing = select(WebhookEndpoint.id).where(
        WebhookEndpoint.project_id == identity.project_id, WebhookEndpoint.deleted_at.is_(None)
    )
    if len(session.scalars(existing).all()) >= _MAX_ENDPOINTS:
        raise Conflict(
            f"the project has {_MAX_ENDPOINTS} webhook endpoints, the most it may; delete one",
            code="too_many_webhook_endpoints",
        )
    at = now(session)
    endpoint = WebhookEndpoint(
        id=new_id("whe_"),
        project_id=identity.project_id,
        name=name,
        url=url,
        event_types=event_types,
        secret=_new_secret(),
        created_at=at,
        updated_at=at,
    )
    session.add(endpoint)
    return endpoint


def get(session: Session, identity: Identity, endpoint_id: str) -> WebhookEndpoint:
    """An endpoint of the project; raises Forbidden, NotFound."""
    identity.require_admin()
    return endpoint_of(session, identity, endpoint_id)


def list_endpoints(
    session: Session, identity: Identity, *, after: str | None, limit: int
) -> Page[WebhookEndpoint]:
    """The project's endpoints, newest first; raises Forbidden."""
    identity.require_admin()
    return endpoints_page(session, identity, after=after, limit=limit)


def change(
    session: Session, identity: Identity, endpoint_id: str, changes: dict[str, Any]
) -> WebhookEndpoint:
    """Give an endpoint another name, URL or set of event types; raises Forbidden, NotFound."""
    identity.require_admin()
    endpoint = endpoint_of(session, identity, endpoint_id, lock=Lock.CHANGE)
    differing = {key: value for key, value in changes.items() if getattr(endpoint, key) != value}
    for key, value in differing.items():
        setattr(endpoint, key, value)
    if differing:
        endpoint.updated_at = now(session)
    return endpoint


def rotate_secret(
    session: Session, identity: Identity, endpoint_id: str, *, keep_old: bool
) -> WebhookEndpoint:
    """A new secret; the old one may sign beside it for 24 hours. Raises Forbidden, NotFound."""
    identity.require_admin()
    endpoint = endpoint_of(session, identity, endpoint_id, lock=Lock.CHANGE)
    at = now(session)
    endpoint.old_secret = endpoint.secret if keep_old else None
    endpoint.old_secret_expires_at = at + _OLD_SECRET_SECONDS if keep_old else None
    endpoint.secret = _new_secret()
    endpoint.updated_at = at
    return endpoint


def remove(session: Session, identity: Identity, endpoint_id: str) -> None:
    """Send nothing more to an endpoint; raises Forbidden, NotFound."""
    identity.require_admin()
    endpoint = endpoint_of(session, identity, endpoint_id, lock=Lock.CHANGE)
    endpoint.deleted_at = now(session)
    endpoint.old_secret = None
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint.id)
        .values(next_attempt_at=None)
    )


def sample(session: Session, identity: Identity, endpoint_id: str, event_type: str) -> Parcel:
    """A parcel about a job that does not exist, to try an endpoint; raises Forbidden, NotFound."""
    endpoint = get(session, identity, endpoint_id)
    at = now(session)
    event = _event(new_id("evt_"), event_type, new_id("ftjob-"), at)
    return Parcel(new_id("wh_"), endpoint.url, _secrets(endpoint, at), event)


def announce(session: Session, job: Job) -> None:
    """Put the end of a job on its way to every endpoint of its project that asks for it."""
    event_type = EVENT_TYPES[job.status]
    query = select(WebhookEndpoint.id, WebhookEndpoint.event_types).where(
        WebhookEndpoint.project_id == job.project_id, WebhookEndpoint.deleted_at.is_(None)
    )
    endpoints = [row.id for row in session.execute(query) if event_type in row.event_types]
    at, event_id = now(session), new_id("evt_")
    session.add_all(
        WebhookDelivery(
            id=new_id("wh_"),
            endpoint_id=endpoint_id,
            event_id=event_id,
            event_type=event_type,
            object_id=job.id,
            created_at=at,
            next_attempt_at=at,
        )
        for endpoint_id in endpoints
    )


def any_due(session: Session) -> bool:
    """Whether `take` would find something."""
    return session.scalar(_due(now(session)).limit(1)) is not None


def take(session: Session, limit: int) -> list[Parcel]:
    """Up to `limit` parcels that are due; nobody else gets them for a lease."""
    at = now(session)
    query = _due(at).order_by(WebhookDelivery.next_attempt_at).limit(limit)
    ids = session.scalars(query.with_for_update(skip_locked=True)).all()
    taken = session.execute(
        select(WebhookDelivery, WebhookEndpoint)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookDelivery.id.in_(ids))
    )
    parcels = []
    for delivery, endpoint in taken:
        if endpoint.deleted_at is not None:  # it was removed while the job ended
            delivery.next_attempt_at = None
            continue
        delivery.attempts += 1
        delivery.next_attempt_at = at + LEASE_SECONDS
        event = _event(
            delivery.event_id, delivery.event_type, delivery.object_id, delivery.created_at
        )
        parcels.append(
            Parcel(
                delivery.id, endpoint.url, _secrets(endpoint, at), event, attempt=delivery.attempts
            )
        )
    return parcels


def settle(
    session: Session, parcel: Parcel, settings: Settings, *, status: int | None, problem: str | None
) -> None:
    """Keep how a try ended, and when the next one is due.

    Args:
        session: The transaction.
        parcel: As it was taken; nothing happens where somebody took it again since.
        settings: How long is paused and tried.
        status: What the endpoint replied; None: nothing.
        problem: Why it counts as undelivered; None: it was delivered.
    """
    delivery = session.get(WebhookDelivery, parcel.delivery_id, with_for_update=True)
    if delivery is None or delivery.attempts != parcel.attempt:
        return
    at = now(session)
    delivery.last_status = status
    delivery.last_error = problem
    if problem is None:
        delivery.delivered_at = at
        delivery.next_attempt_at = None
    elif delivery.next_attempt_at is not None:  # else the endpoint was removed
        pause = settings.webhook_pause_seconds * 2.0 ** min(parcel.attempt - 1, 30)
        due = at + min(pause, _MAX_PAUSE_SECONDS) * _RANDOM.uniform(0.8, 1.2)
        given_up = due > delivery.created_at + settings.webhook_max_seconds
        delivery.next_attempt_at = None if given_up else due


def forget_old(session: Session) -> None:
    """Remove deliveries that ended long ago, and removed endpoints that none names any more."""
    before = now(session) - _KEPT_SECONDS
    old = select(WebhookDelivery.id).where(
        WebhookDelivery.next_attempt_at.is_(None), WebhookDelivery.created_at < before
    )
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.limit(_BATCH))))
    named = select(WebhookDelivery.endpoint_id)
    session.execute(
        delete(WebhookEndpoint).where(
            WebhookEndpoint.deleted_at < before, WebhookEndpoint.id.not_in(named)
        )
    )


def _due(at: float) -> Select[str]:
    return select(WebhookDelivery.id).where(WebhookDelivery.next_attempt_at <= at)


def _event(event_id: str, event_type: str, object_id: str, at: float) -> dict[str, Any]:
    return {
        "id": event_id,
        "object": "event",
        "created_at": int(at),
        "type": event_type,
        "data": {"id": object_id},
    }


def _secrets(endpoint: WebhookEndpoint, at: float) -> tuple[str, ...]:
    until = endpoint.old_secret_expires_at
    if endpoint.old_secret is None or until is None or until <= at:
        return (endpoint.secret,)
    return (endpoint.secret, endpoint.old_secret)


def _new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
