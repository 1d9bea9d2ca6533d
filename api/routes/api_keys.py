"""API keys of the caller's project, kept by its admins."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.documentation import problems
from api.routing import ApiRoute
from api.schemas.api_keys import KeyReply, KeyRequest, NewKeyReply
from api.schemas.common import Deleted, Listing
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.service import keys

router = APIRouter(prefix="/v1/api_keys", tags=["API keys"], route_class=ApiRoute)


@router.get("", responses=problems())
def list_keys(services: Provided, caller: Caller) -> Listing[KeyReply]:
    """The keys that were not revoked, newest first."""
    with services.db.reading() as session:
        return Listing(data=[KeyReply.of(key) for key in keys.list_keys(session, caller)])


@router.post("", responses=problems(413, 415))
def create_key(body: KeyRequest, services: Provided, caller: Caller) -> NewKeyReply:
    """A new key; its `secret` is shown this once."""
    with services.db.writing() as session:
        key, secret = keys.create(
            session, caller, name=body.name, role=body.role, project=body.project
        )
    return NewKeyReply.with_secret(key, secret)


@router.delete("/{key_id}", responses=problems(404, 409))
async def revoke_key(key_id: str, services: Provided, caller: Caller) -> Deleted:
    """Make a key worthless; the last admin key of a project stays."""
    revoked = await run_in_threadpool(_revoke, key_id, services, caller)
    services.keyring.forget()
    return revoked


def _revoke(key_id: str, services: Services, caller: Identity) -> Deleted:
    with services.db.writing() as session:
        key = keys.revoke(session, caller, key_id)
    return Deleted(id=key.id, object="api_key")
