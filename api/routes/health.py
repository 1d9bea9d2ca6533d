"""Whether the process lives, and whether it can do its work; no key is needed to ask."""

from typing import Literal

from fastapi import APIRouter

from api.documentation import problems
from api.errors import Unavailable
from api.schemas.common import Reply
from api.services import Provided, Services
from jobs.artifacts.base import ArtifactStore

router = APIRouter(tags=["Health"])

_PROBE_KEY = "probes/readiness"


class Health(Reply):
    status: Literal["ok"] = "ok"


class Readiness(Reply):
    status: Literal["ready"] = "ready"


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers; neither the database nor the store is asked."""
    return Health()


@router.get("/readyz", responses={503: problems()[503]})
def readyz(services: Provided) -> Readiness:
    """The database answers and the store takes files; 503 names what is missing.

    The broker may be away: nothing waits for it.
    """
    if missing := _missing(services):
        raise Unavailable(f"not ready: {' and '.join(missing)}", code="not_ready")
    return Readiness()


def _missing(services: Services) -> list[str]:
    """In words without details that a stranger should not see."""
    missing = []
    if not services.db.answers():
        missing.append("the database does not answer")
    try:
        _write(services.store)
    except OSError:
        missing.append("the artifact store takes no files")
    return missing


def _write(store: ArtifactStore) -> None:
    """Begin a file and leave it: nothing stays."""
    with store.create(_PROBE_KEY) as writer:
        writer.write(b"?")
