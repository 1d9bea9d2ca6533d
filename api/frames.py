"""A followed job as a client reads it: server-sent events, or the plain text of its log."""

from collections.abc import AsyncIterator, Iterator

import orjson
from starlette.concurrency import run_in_threadpool

from api.job_views import job_reply
from api.schemas.events import EventReply
from api.services import Services
from api.streams import News
from jobs.identity import Identity
from jobs.service import jobs

_HEARTBEAT_SECONDS = 15
_HELLO = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"


async def event_frames(
    services: Services, identity: Identity, job_id: str, after: int
) -> AsyncIterator[bytes]:
    """Stored events with their numbers as ids, progress without one, and `end` at the end.

    Where the process stops before the job, there is no `end`: the client comes back.
    """
    yield _HELLO
    told: object = None
    news = services.streams.follow(job_id, after, patience_seconds=_HEARTBEAT_SECONDS)
    async for each in news:
        frames = b"".join(_stored(each))
        progress = _progress(each)
        if progress != told:
            frames += _frame("progress", progress)
            told = progress
        yield frames or _HEARTBEAT
    if not services.streams.closed:
        yield await run_in_threadpool(_end, services, identity, job_id)


async def log_text(services: Services, job_id: str, *, follow: bool) -> AsyncIterator[bytes]:
    """The log so far, and, when it is followed, what is added until the job ends."""
    news = services.streams.follow(
        job_id,
        0,
        types={"log"},
        patience_seconds=_HEARTBEAT_SECONDS if follow else None,
    )
    async for each in news:
        if each.events:
            yield "".join(event.message for event in each.events).encode()


def _stored(news: News) -> Iterator[bytes]:
    for event in news.events:
        yield _frame(event.type, EventReply.of(event).model_dump(), event.seq)


def _progress(news: News) -> dict[str, object]:
    look = news.look
    return {"status": look.status.value, "phase": look.phase, "progress": look.progress}


def _end(services: Services, identity: Identity, job_id: str) -> bytes:
    with services.db.reading() as session:
        job = job_reply(session, identity, jobs.get(session, identity, job_id))
    return _frame("end", job.model_dump(mode="json"))


def _frame(event: str, data: object, seq: int | None = None) -> bytes:
    number = b"" if seq is None else b"id: %d\n" % seq
    return number + b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))
