"""Whether the process lives, and whether it can do its work; no key is needed to ask."""

from typing import Literal

from fastapi import APIRouter, Response

from api.schemas.common import Reply
from api.services import Provided, Services
from jobs.artifacts.base import ArtifactStore

router = APIRouter(tags=["Health"])

_PROBE_KEY = "probes/readiness"


class Health(Reply):
    status: Literal["ok"] = "ok"


class Readiness(Reply):
    """`reasons` names what is missing, without details that a stranger should not see."""

    status: Literal["ready", "not_ready"]
    reasons: list[str]


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers; neither the database nor the store is asked."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
def readyz(services: Provided, response: Response) -> Readiness:
    """The database answers and the store takes files.

    The broker may be away: nothing waits for it.
    """
    reasons = _reasons(services)
    if reasons:
        response.status_code = 503
    return Readiness(status="not_ready" if reasons else "ready", reasons=reasons)


def _reasons(services: Services) -> list[str]:
    reasons = []
    if not services.db.answers():
        reasons.append("the database does not answer")
    try:
        _write(services.store)
    except OSError:
        reasons.append("the artifact store takes no files")
    return reasons


def _write(store: ArtifactStore) -> None:
    """Begin a file and leave it: nothing stays."""
    with store.create(_PROBE_KEY) as writer:
        writer.write(b"?")
