"""Webhook endpoints as OpenAI's clients keep them; a secret appears once, when it is made."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.common import Identified, Reply, seconds
from jobs.models import WebhookEndpoint
from training.section import PLAIN, Section

EventType = Literal[
    "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"
]
Name = Annotated[str, Field(min_length=1, max_length=100), PLAIN]
Url = Annotated[
    str,
    Field(min_length=1, max_length=2048, description="An https URL that leads to a public host."),
    PLAIN,
]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=3)]


class EndpointRequest(Section):
    """A new endpoint."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "trainings",
                    "url": "https://hooks.example.com/tunesmith",
                    "event_types": ["fine_tuning.job.succeeded", "fine_tuning.job.failed"],
                }
            ]
        }
    )

    name: Name
    url: Url
    event_types: EventTypes


class EndpointChanges(Section):
    """What is not given stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://hooks.example.com/elsewhere"}]}
    )

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class SecretRequest(Section):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"keep_old_secret_active_for_24_hours": True}]}
    )

    keep_old_secret_active_for_24_hours: bool = False


class TestRequest(Section):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"event_type": "fine_tuning.job.succeeded"}]}
    )

    event_type: EventType


class EndpointReply(Identified):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str

    @classmethod
    def of(cls, endpoint: WebhookEndpoint) -> "EndpointReply":
        return cls(
            id=endpoint.id,
            created_at=seconds(endpoint.created_at),
            updated_at=seconds(endpoint.updated_at),
            name=endpoint.name,
            url=endpoint.url,
            event_types=endpoint.event_types,
            signing_secret_hint=f"whsec_…{endpoint.secret[-4:]}",
        )


class SecretReply(EndpointReply):
    signing_secret: str

    @classmethod
    def with_secret(cls, endpoint: WebhookEndpoint) -> "SecretReply":
        shown = EndpointReply.of(endpoint).model_dump()
        return cls(**shown, signing_secret=endpoint.secret)


class TestReply(Reply):
    """The endpoint replied; `status_code` tells what."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class EventTypeList(Reply):
    object: Literal["list"] = "list"
    data: list[str]
