"""The door through which every new job comes: a post that repeats another gets that one's job."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from pydantic import Field
from sqlalchemy.orm import Session

from api.auth import Caller
from api.job_views import job_reply
from api.replies import tells_of
from api.schemas.jobs import JobReply
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.models import Job
from jobs.service import creations
from jobs.service.creations import Post
from training.section import InWords

_REPLAYED = "idempotent-replayed"
_COUNT = re.compile(r"[0-9]{1,9}")

IdempotencyKey = Annotated[
    Annotated[
        str,
        Field(pattern=r"^[!-~]{1,255}$"),
        InWords("1 to 255 ASCII characters without spaces"),
    ]
    | None,
    Header(
        description="Any text of yours: for 24 hours, posts of the project with the same key are "
        "one post. The same key with another body is refused.",
    ),
]


@dataclass(frozen=True)
class Posted:
    """A post that wants a job, and the reply that is being made."""

    post: Post
    request: Request
    response: Response

    def create(
        self, services: Services, caller: Identity, make: Callable[[Session], Job]
    ) -> JobReply:
        """Answer with the job that `make` makes, or with the one that was made before.

        Raises:
            Contradiction: The idempotency key came with another body before.
        """
        if self.post.retry_count:
            services.receipts.flush()
        with services.db.writing() as session:
            answer = creations.create_once(session, caller, self.post, make)
        tells_of(self.request, answer.creation_id)
        if answer.is_replay:
            self.response.headers[_REPLAYED] = "true"
        else:
            services.bell.ring(answer.job.pool)
        with services.db.reading() as session:  # after the write: others wait for its lock
            return job_reply(session, caller, answer.job)


async def _posted(
    request: Request,
    response: Response,
    services: Provided,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
) -> AsyncIterator[Posted]:
    # No body, `null` and `{}` ask for the same.
    body = (await request.json() if await request.body() else None) or {}
    canonical = json.dumps([request.url.path, body], sort_keys=True, separators=(",", ":"))
    # OpenAI's clients send no key and count their tries.
    count = request.headers.get("x-stainless-retry-count", "")
    post = Post(
        body_sha256=creations.body_sha256(canonical.encode()),
        retry_count=int(count) if _COUNT.fullmatch(count) and idempotency_key is None else 0,
        idempotency_key=idempotency_key,
    )
    async with services.turns.turn(caller, post):
        yield Posted(post, request, response)


NewPost = Annotated[Posted, Depends(_posted, scope="function")]
"""In a route that makes a job: `post.create(services, caller, make)` answers it."""
