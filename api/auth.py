"""Who is asking: a bearer key looked up by its hash.

The look-up by hash takes the same time for every wrong key. A found key is remembered for half a
second, so that a busy client costs one query instead of hundreds; a revoked key therefore dies
within that time in every process, and at once in the one that revoked it.
"""

import hashlib
import time
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from jobs.database import Database
from jobs.errors import Unauthenticated
from jobs.identity import Identity
from jobs.service import keys

_REMEMBERED_SECONDS = 0.5
_MAX_REMEMBERED = 1024
_MAX_KEY_CHARS = 512

_scheme = HTTPBearer(auto_error=False, description="An API key made by an admin of the project.")


class Keyring:
    """The keys seen a moment ago, by their hash; used from the event loop only."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._seen: dict[bytes, tuple[float, Identity]] = {}

    async def identify(self, secret: str) -> Identity:
        """Whose key `secret` is; raises Unauthenticated."""
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        until, identity = self._seen.get(digest, (0.0, None))
        if identity is None or until < time.monotonic():
            identity = await run_in_threadpool(self._look_up, secret)
            self._remember(digest, identity)
        return identity

    def forget(self) -> None:
        """Look every key up again from now on."""
        self._seen.clear()

    def _look_up(self, secret: str) -> Identity:
        with self._db.reading() as session:
            return keys.authenticate(session, secret)

    def _remember(self, digest: bytes, identity: Identity) -> None:
        if len(self._seen) >= _MAX_REMEMBERED:
            self._seen.clear()
        self._seen[digest] = (time.monotonic() + _REMEMBERED_SECONDS, identity)


def bearer_key(request: Request) -> str:
    """The key of the `Authorization` header; raises Unauthenticated."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated(
            "no API key was given; send the header `Authorization: Bearer <key>`",
            code="missing_api_key",
        )
    if len(secret) > _MAX_KEY_CHARS:
        raise Unauthenticated("the API key is not valid", code="invalid_api_key")
    return secret.strip()


async def _caller(
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)],
) -> Identity:
    identity: Identity = request.state.caller
    return identity


Caller = Annotated[Identity, Depends(_caller)]
"""The identity that `api.routing.ApiRoute` has found before it read anything else."""
