"""A repetition waits for the equal posts that arrived before it, and for nothing else."""

import asyncio

from api.turns import Turns
from jobs.identity import Identity
from jobs.service.creations import Post

ME = Identity("key_1", "proj_1", "local", "admin")
OTHER = Identity("key_2", "proj_1", "local", "admin")


class Line:
    """Posts that are let go one by one; tells which of them have their turn."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.inside: list[str] = []
        self._doors: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def arrive(
        self, name: str, count: int = 0, *, body: str = "a", by: Identity = ME
    ) -> None:
        self._doors[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._pass(name, Post(body, count), by))
        await asyncio.sleep(0.01)

    async def let_go(self, name: str) -> None:
        self._doors[name].set()
        await self._tasks[name]
        await asyncio.sleep(0.01)

    async def _pass(self, name: str, post: Post, by: Identity) -> None:
        async with self.turns.turn(by, post):
            self.inside.append(name)
            await self._doors[name].wait()


async def test_a_repetition_waits_for_all_before_it():
    line = Line()
    await line.arrive("first")
    await line.arrive("other first")
    await line.arrive("second", 1)
    await line.arrive("third", 2)
    assert line.inside == ["first", "other first"]
    await line.let_go("first")
    assert "second" not in line.inside
    await line.let_go("other first")
    assert line.inside[2:] == ["second"]
    await line.let_go("second")
    assert line.inside[3:] == ["third"]
    await line.let_go("third")
    await line.arrive("fourth", 3)
    assert line.inside[4:] == ["fourth"]
    await line.let_go("fourth")


async def test_nothing_else_waits():
    line = Line()
    await line.arrive("first")
    await line.arrive("repetition", 1)
    await line.arrive("fresh")
    await line.arrive("other body", 1, body="b")
    await line.arrive("other key", 1, by=OTHER)
    assert line.inside == ["first", "fresh", "other body", "other key"]
    for name in ("first", "repetition", "fresh", "other body", "other key"):
        await line.let_go(name)
