"""A followed job as a client reads it: server-sent events, or the plain text of its log."""

from collections.abc import AsyncIterator, Sequence

from starlette.concurrency import run_in_threadpool

from api.job_views import job_reply
from api.services import Services
from api.sse import frame
from jobs.identity import Identity
from jobs.service import events, jobs

_HELLO = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"


async def event_frames(
    services: Services,
    identity: Identity,
    job_id: str,
    after: int,
    types: Sequence[str] | None = None,
) -> AsyncIterator[bytes]:
    """Stored events with their numbers as ids, progress without one, and `end` at the end.

    Of other types than those given, no event is told; progress and `end` always are.

    Where the process stops before the job, there is no `end`: the client comes back.
    """
    yield _HELLO
    told = b""
    async for news in services.streams.follow(job_id, after, types=types):
        frames = news.frames
        if news.progress != told:
            told = news.progress
            frames += told
        yield frames or _HEARTBEAT
    if not services.streams.closed:
        yield await run_in_threadpool(_end, services, identity, job_id)


async def log_text(
    services: Services, job_id: str, *, follow: bool, tail: int | None = None
) -> AsyncIterator[bytes]:
    """The log so far (its last lines), and, when it is followed, what is added until the end."""
    beginning, after = "", 0
    if tail is not None:
        beginning, after = await run_in_threadpool(_last_lines, services, job_id, tail)
    if beginning:
        yield beginning.encode()
    async for news in services.streams.follow(job_id, after, types={"log"}, until_now=not follow):
        if news.events:
            yield "".join(event.message for event in news.events).encode()


def _last_lines(services: Services, job_id: str, count: int) -> tuple[str, int]:
    with services.db.reading() as session:
        return events.last_lines(session, job_id, count)


def _end(services: Services, identity: Identity, job_id: str) -> bytes:
    with services.db.reading() as session:
        job = job_reply(session, identity, jobs.get(session, identity, job_id))
    return frame("end", job.model_dump(mode="json"))
