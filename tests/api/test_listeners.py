"""The one reader and its listeners, in an event loop of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from api.errors import Unavailable
from api.streams import News, Streams
from jobs.database import Database
from jobs.schema import upgrade
from jobs.service.events import Draft, append
from tests.api.deployment import Client, Deployment, refused
from tests.jobs.world import World, settings_in

_LISTENERS = 60
_PATIENCE_SECONDS = 20


@pytest.fixture
def world(tmp_path: Path) -> World:
    settings = settings_in(tmp_path)
    upgrade(settings.resolved_database_url)
    made = World(Database(settings.resolved_database_url), settings)
    made.model()
    return made


@asynccontextmanager
async def _reading(streams: Streams) -> AsyncIterator[None]:
    reader = asyncio.create_task(streams.read())
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            yield
    finally:
        streams.close()
        await reader


def _say(world: World, job_id: str, text: str) -> None:
    with world.db.writing() as session:
        append(session, job_id, [Draft("message", text)])


async def _next_with_events(news: AsyncIterator[News]) -> News:
    while not (told := await anext(news)).events:
        pass
    return told


async def test_all_listeners_are_told_by_the_same_bytes(world: World) -> None:
    job = world.submit(training_file=world.file().id)
    streams = Streams(world.db, _LISTENERS)
    async with _reading(streams):
        followed = [streams.follow(job.id, 0) for _ in range(_LISTENERS)]
        for news in followed:
            assert len((await _next_with_events(news)).events) == 2
        waiting = [asyncio.create_task(_next_with_events(news)) for news in followed]
        await asyncio.sleep(0.3)  # until the reader has seen the job, and all of them wait
        _say(world, job.id, "one for all")
        told = await asyncio.gather(*waiting)
        assert {event.message for news in told for event in news.events} == {"one for all"}
        assert len({id(news.frames) for news in told}) == 1
        for news in followed:
            await news.aclose()


async def test_a_listener_too_many_is_refused(world: World) -> None:
    job = world.submit(training_file=world.file().id)
    streams = Streams(world.db, 1)
    first = streams.follow(job.id, 0)
    await anext(first)
    with pytest.raises(Unavailable):
        streams.require_room()
    with pytest.raises(Unavailable):
        await anext(streams.follow(job.id, 0))
    await first.aclose()
    streams.require_room()


async def test_a_silent_job_is_heard_of_all_the_same(world: World) -> None:
    job = world.submit(training_file=world.file().id)
    streams = Streams(world.db, 1, heartbeat_seconds=0.2)
    async with _reading(streams):
        news = streams.follow(job.id, 0)
        await _next_with_events(news)
        for _ in range(3):
            assert (await anext(news)).events == []
        await news.aclose()


async def test_the_end_of_the_process_ends_a_wait(world: World) -> None:
    job = world.submit(training_file=world.file().id)
    streams = Streams(world.db, 1)
    news = streams.follow(job.id, 0)
    async with _reading(streams):
        await _next_with_events(news)
        waiting = asyncio.create_task(_collect(news))
        await asyncio.sleep(0.3)
        streams.close()
        assert all(not told.events for told in await waiting)


async def test_a_listener_that_is_busy_at_the_end_of_the_process_waits_no_more(
    world: World,
) -> None:
    job = world.submit(training_file=world.file().id)
    streams = Streams(world.db, 1)
    news = streams.follow(job.id, 0)
    async with _reading(streams):
        await _next_with_events(news)
        streams.close()
        assert await _collect(news) == []


async def _collect(news: AsyncIterator[News]) -> list[News]:
    return [told async for told in news]


def test_a_stream_too_many_is_a_503_of_the_usual_shape(
    deployment: Deployment, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = admin.submit()
    monkeypatch.setattr(deployment.server._app.state.services.streams, "_max_listeners", 0)
    for path in ("stream", "logs"):
        reply = admin.http.get(f"/fine_tuning/jobs/{job['id']}/{path}")
        assert refused(reply, 503)["code"] == "too_many_streams"
