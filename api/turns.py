"""Equal posts in the order of their arrival.

Without it a thread, or the lock of the database, could let a repetition overtake the post that it
repeats, and both would make a job.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.identity import Identity
from jobs.service.creations import Post


class Turns:
    """The posts that are being answered in this process; used from the event loop only."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], set[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, identity: Identity, post: Post) -> AsyncIterator[None]:
        """While it lasts, repetitions that arrive later wait; one waits for those before it."""
        name = (identity.key_id, post.body_sha256)
        here = self._under_way.setdefault(name, set())
        earlier = set(here)
        ended = asyncio.get_running_loop().create_future()
        here.add(ended)
        try:
            if post.retry_count and earlier:
                await asyncio.wait(earlier)
            yield
        finally:
            ended.set_result(None)
            here.discard(ended)
            if not here:
                del self._under_way[name]
