"""Webhook endpoints of the project: told how its jobs end. Kept by its admins."""

from fastapi import APIRouter

from api.addresses import Unreachable, checked_url
from api.auth import Caller
from api.documentation import problems
from api.parameters import After, Limit
from api.routing import ApiRoute
from api.schemas.common import CursorListing, Deleted
from api.schemas.webhooks import (
    EndpointChanges,
    EndpointReply,
    EndpointRequest,
    EventTypeList,
    SecretReply,
    SecretRequest,
    TestReply,
    TestRequest,
)
from api.services import Provided
from jobs.errors import InvalidRequest
from jobs.service import webhooks

router = APIRouter(prefix="/v1", tags=["Webhooks"], route_class=ApiRoute)
_ENDPOINT = "/webhook_endpoints/{webhook_endpoint_id}"


@router.post("/webhook_endpoints", responses=problems(409, 413, 415))
def create_endpoint(body: EndpointRequest, services: Provided, caller: Caller) -> SecretReply:
    """A new endpoint; its `signing_secret` is shown this once."""
    url = checked_url(body.url, allow_private=services.settings.webhook_allow_private)
    event_types: list[str] = list(dict.fromkeys(body.event_types))
    with services.db.writing() as session:
        endpoint = webhooks.create(
            session, caller, name=body.name, url=url, event_types=event_types
        )
    return SecretReply.with_secret(endpoint)


@router.get("/webhook_endpoints", responses=problems())
def list_endpoints(
    services: Provided, caller: Caller, after: After = None, limit: Limit = 20
) -> CursorListing[EndpointReply]:
    """The project's endpoints, newest first."""
    with services.db.reading() as session:
        page = webhooks.list_endpoints(session, caller, after=after, limit=limit)
    data = [EndpointReply.of(endpoint) for endpoint in page.items]
    return CursorListing.of(data, has_more=page.has_more)


@router.get(_ENDPOINT, responses=problems(404))
def retrieve_endpoint(
    webhook_endpoint_id: str, services: Provided, caller: Caller
) -> EndpointReply:
    with services.db.reading() as session:
        return EndpointReply.of(webhooks.get(session, caller, webhook_endpoint_id))


@router.post(_ENDPOINT, responses=problems(404, 413, 415))
def update_endpoint(
    webhook_endpoint_id: str, body: EndpointChanges, services: Provided, caller: Caller
) -> EndpointReply:
    """Change what is given; what is under way goes to the new URL."""
    changes = body.model_dump(exclude_none=True)
    if "url" in changes:
        checked_url(changes["url"], allow_private=services.settings.webhook_allow_private)
    with services.db.writing() as session:
        return EndpointReply.of(webhooks.change(session, caller, webhook_endpoint_id, changes))


@router.delete(_ENDPOINT, responses=problems(404))
def delete_endpoint(webhook_endpoint_id: str, services: Provided, caller: Caller) -> Deleted:
    """Send nothing more to it, not even what is due."""
    with services.db.writing() as session:
        webhooks.remove(session, caller, webhook_endpoint_id)
    return Deleted(id=webhook_endpoint_id, object="webhook_endpoint.deleted")


@router.post(f"{_ENDPOINT}/rotate_secret", responses=problems(404, 413, 415))
def rotate_secret(
    webhook_endpoint_id: str,
    services: Provided,
    caller: Caller,
    body: SecretRequest | None = None,
) -> SecretReply:
    """A new secret, shown this once. The old one may go on signing beside it for a day."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    with services.db.writing() as session:
        endpoint = webhooks.rotate_secret(session, caller, webhook_endpoint_id, keep_old=keep_old)
    return SecretReply.with_secret(endpoint)


@router.post(f"{_ENDPOINT}/test", responses=problems(404, 413, 415))
def send_test(
    webhook_endpoint_id: str, body: TestRequest, services: Provided, caller: Caller
) -> TestReply:
    """Send an event about a job that does not exist, now, and tell what the endpoint replied."""
    with services.db.reading() as session:
        parcel = webhooks.sample(session, caller, webhook_endpoint_id, body.event_type)
    try:
        status = services.courier.send(parcel)
    except Unreachable as error:
        raise InvalidRequest(
            f"the endpoint cannot be reached: {error.message}",
            param="url",
            code="webhook_endpoint_unreachable",
        ) from error
    return TestReply(
        webhook_endpoint_id=webhook_endpoint_id, event_type=body.event_type, status_code=status
    )


@router.get("/webhook_event_types", responses=problems())
def list_event_types(_caller: Caller) -> EventTypeList:
    """What an endpoint can be told."""
    return EventTypeList(data=list(webhooks.EVENT_TYPES.values()))
