"""What a job says: pages of its events, the stream, and the text of its log."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from api.auth import Caller
from api.documentation import bytes_reply, problems
from api.frames import event_frames, log_text
from api.parameters import After, Limit
from api.routing import ApiRoute
from api.schemas.common import Listing
from api.schemas.events import EventReply
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.service import events, jobs

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=ApiRoute)

EventType = Literal["message", "metrics", "sample", "checkpoint", "status", "rewound", "log"]
Follow = Annotated[bool, Query(description="Go on until the job ends.")]
_UNBUFFERED = {"cache-control": "no-store", "x-accel-buffering": "no"}
_MAX_SEQ_DIGITS = 18


@router.get("/{job_id}/events", responses=problems(404))
def list_events(
    job_id: str,
    services: Provided,
    caller: Caller,
    after: After = None,
    limit: Limit = 20,
    types: Annotated[list[EventType] | None, Query(alias="type")] = None,
) -> Listing[EventReply]:
    """Events, newest first: messages, metrics and samples, or those of each `type` given."""
    with services.db.reading() as session:
        page = events.page(
            session,
            caller,
            job_id,
            after=after,
            limit=limit,
            types=events.SHOWN_TYPES if types is None else types,
        )
    return Listing(data=[EventReply.of(e) for e in page.items], has_more=page.has_more)


@router.get(
    "/{job_id}/stream",
    response_class=StreamingResponse,
    responses={
        **problems(404),
        200: bytes_reply(
            "Server-sent events: `id` is the event's number, `event` its type, `data` the event; "
            "`progress` comes without an id; `end`, with the job, is the last one.",
            "text/event-stream",
        ),
    },
)
def stream_events(
    job_id: str,
    services: Provided,
    caller: Caller,
    last_event_id: Annotated[
        str | None,
        Header(
            pattern=rf"^\d{{1,{_MAX_SEQ_DIGITS}}}$",
            description="The last number that was seen: what follows it is sent.",
        ),
    ] = None,
) -> StreamingResponse:
    """Follow a job until it ends, from its first event or from `Last-Event-ID` on."""
    _require_job(services, caller, job_id)
    frames = event_frames(services, caller, job_id, int(last_event_id or 0))
    return StreamingResponse(frames, media_type="text/event-stream", headers=_UNBUFFERED)


@router.get(
    "/{job_id}/logs",
    response_class=StreamingResponse,
    responses={**problems(404), 200: bytes_reply("The log.", "text/plain")},
)
def read_logs(
    job_id: str,
    services: Provided,
    caller: Caller,
    *,
    follow: Follow = False,
) -> StreamingResponse:
    """The output of the training process, all attempts of it."""
    _require_job(services, caller, job_id)
    return StreamingResponse(
        log_text(services, job_id, follow=follow),
        media_type="text/plain; charset=utf-8",
        headers=_UNBUFFERED,
    )


def _require_job(services: Services, caller: Identity, job_id: str) -> None:
    """Raise NotFound before a stream begins."""
    with services.db.reading() as session:
        jobs.get(session, caller, job_id)
