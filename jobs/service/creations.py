"""One wish, one job: a post that repeats an earlier one is answered with that one's job.

Clients repeat a post whose reply was lost. One that sends an idempotency key says so itself;
OpenAI's clients only count their tries, so their repetitions are known by the body, the key of
the asker, a higher count, and how long ago the try before was answered.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, insert, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from jobs.database import now, serialise
from jobs.errors import Contradiction
from jobs.identity import Identity
from jobs.models import Creation, Job, new_id, table_of

KEPT_SECONDS = 24 * 3600
"""How long an idempotency key is remembered."""
REPLIED_SECONDS = 30
"""How long after a reply that was sent whole a repetition is still one of that post."""
UNREPLIED_SECONDS = 660
"""How long after a post whose reply was not sent whole: the clients wait 600 s for one."""
_BATCH = 1000


@dataclass(frozen=True)
class Post:
    """What tells whether a post repeats an earlier one."""

    body_sha256: str
    retry_count: int = 0
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Answer:
    """The job a post is answered with."""

    job: Job
    creation_id: str | None
    """To be told to `replied` when the reply was sent whole; None: nobody will ask."""
    is_replay: bool


def create_once(
    session: Session, identity: Identity, post: Post, make: Callable[[Session], Job]
) -> Answer:
    """The job of an earlier post that this one repeats, or the one that `make` makes.

    Raises:
        Contradiction: The idempotency key came with another body before.
    """
    if post.idempotency_key is not None:
        return _once_by_key(session, identity, post, make)
    name = f"{identity.key_id} {post.body_sha256}"
    # Fresh posts may pass each other; a repetition must see the post it repeats.
    serialise(session, name, shared=post.retry_count == 0)
    repeated = _repeated(session, identity, post) if post.retry_count else None
    job = make(session) if repeated is None else session.get_one(Job, repeated)
    creation_id = _keep(session, identity, post, job)
    return Answer(job, creation_id, is_replay=repeated is not None)


def replied(session: Session, creation_ids: set[str]) -> None:
    """The replies to these posts were sent whole."""
    session.execute(_REPLIED, {"ids": list(creation_ids), "at": now(session)})


def forget_old(session: Session) -> None:
    """Remove what no post can repeat any more."""
    old = select(Creation.id).where(Creation.created_at < now(session) - KEPT_SECONDS)
    session.execute(delete(Creation).where(Creation.id.in_(old.limit(_BATCH))))


def _once_by_key(
    session: Session, identity: Identity, post: Post, make: Callable[[Session], Job]
) -> Answer:
    serialise(session, f"{identity.project_id} {post.idempotency_key}")
    values = {"project_id": identity.project_id, "idempotency_key": post.idempotency_key}
    earlier = session.scalar(_OF_KEY, values)
    if earlier is not None and earlier.created_at < now(session) - KEPT_SECONDS:
        session.execute(delete(Creation).where(Creation.id == earlier.id))
        earlier = None
    if earlier is None:
        job = make(session)
        _keep(session, identity, post, job)
        return Answer(job, None, is_replay=False)
    if earlier.body_sha256 != post.body_sha256:
        raise Contradiction(
            f"idempotency-key: {post.idempotency_key!r} came with another body before, which made "
            f"the job {earlier.job_id}; send a new key with a new body",
            param="idempotency-key",
            code="idempotency_key_reused",
        )
    return Answer(session.get_one(Job, earlier.job_id), None, is_replay=True)


def _repeated(session: Session, identity: Identity, post: Post) -> str | None:
    at = now(session)
    values = {
        "api_key_id": identity.key_id,
        "body_sha256": post.body_sha256,
        "retry_count": post.retry_count,
        "replied_since": at - REPLIED_SECONDS,
        "created_since": at - UNREPLIED_SECONDS,
    }
    return session.scalar(_REPEATED, values)


def _keep(session: Session, identity: Identity, post: Post, job: Job) -> str:
    values: dict[str, Any] = {
        "id": new_id("post_"),
        "project_id": identity.project_id,
        "api_key_id": identity.key_id,
        "idempotency_key": post.idempotency_key,
        "body_sha256": post.body_sha256,
        "retry_count": post.retry_count,
        "job_id": job.id,
        "created_at": now(session),
    }
    session.execute(_KEEP, values)
    creation_id: str = values["id"]
    return creation_id


def body_sha256(canonical: bytes) -> str:
    """The hash that two equal posts share."""
    return hashlib.sha256(canonical).hexdigest()


_KEEP = insert(table_of(Creation))
_REPLIED = (
    update(table_of(Creation))
    .where(table_of(Creation).c.id.in_(bindparam("ids", expanding=True)))
    .values(replied_at=bindparam("at"))
)
_OF_KEY = select(Creation).where(
    Creation.project_id == bindparam("project_id"),
    Creation.idempotency_key == bindparam("idempotency_key"),
)
_Later = aliased(Creation)
_COUNT = bindparam("retry_count", type_=Creation.retry_count.type)
_REPEATED = (
    select(Creation.job_id)
    .where(
        Creation.api_key_id == bindparam("api_key_id"),
        Creation.body_sha256 == bindparam("body_sha256"),
        Creation.idempotency_key.is_(None),
        Creation.retry_count < _COUNT,
        or_(
            Creation.replied_at >= bindparam("replied_since"),
            Creation.replied_at.is_(None) & (Creation.created_at >= bindparam("created_since")),
        ),
        # the last try before this one, of a job that this count was not answered with yet
        ~select(literal(1))
        .where(
            _Later.job_id == Creation.job_id,
            _Later.retry_count > Creation.retry_count,
            _Later.retry_count <= _COUNT,
        )
        .exists(),
    )
    .order_by(
        Creation.replied_at.is_not(None), Creation.retry_count.desc(), Creation.created_at.desc()
    )
    .limit(1)
)
