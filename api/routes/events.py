"""What a job says: pages of its events, the stream, and the text of its log."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from api.auth import Caller
from api.documentation import bytes_reply, problems, stream_reply
from api.frames import event_frames, log_text
from api.parameters import CutOfEvents, Tail
from api.routing import ApiRoute
from api.schemas.common import Listing
from api.schemas.events import EventReply
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.service import events, jobs
from training.section import InWords

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=ApiRoute)

EventType = Literal["message", "metrics", "sample", "checkpoint", "status", "rewound", "log"]
Types = Annotated[list[EventType] | None, Query(alias="type", description="Only these.")]
Follow = Annotated[bool, Query(description="Go on until the job ends.")]
_UNBUFFERED = {"cache-control": "no-store", "x-accel-buffering": "no"}
_MAX_SEQ_DIGITS = 18
TailOfLog = Annotated[int | None, Query(ge=0, le=100_000, description="Only the last lines.")]


@router.get("/{job_id}/events", responses=problems(404))
def list_events(
    job_id: str,
    services: Provided,
    caller: Caller,
    cut: CutOfEvents,
    types: Types = None,
) -> Listing[EventReply]:
    """Events, newest first: messages, metrics and samples, or those of each `type` given.

    With `tail` the last ones in one piece, whatever `limit` says, with no page after it.
    """
    with services.db.reading() as session:
        page = events.page(
            session,
            caller,
            job_id,
            after=cut.after,
            limit=cut.limit if cut.tail is None else cut.tail,
            types=events.SHOWN_TYPES if types is None else types,
        )
    return Listing(
        data=[EventReply.of(e) for e in page.items], has_more=page.has_more and cut.tail is None
    )


@router.get(
    "/{job_id}/stream",
    response_class=StreamingResponse,
    responses={
        **problems(404),
        200: stream_reply(
            "Server-sent events: `id` is the event's number, `event` its type, `data` the event; "
            "`progress` comes without an id; `end`, with the job, is the last one."
        ),
    },
)
def stream_events(
    job_id: str,
    services: Provided,
    caller: Caller,
    last_event_id: Annotated[
        Annotated[
            str, Field(pattern=rf"^\d{{1,{_MAX_SEQ_DIGITS}}}$"), InWords("the number of an event")
        ]
        | None,
        Header(
            description="The last number that was seen: what follows it is sent.",
        ),
    ] = None,
    types: Types = None,
    tail: Tail = None,
) -> StreamingResponse:
    """Follow a job until it ends, from its first event or from `Last-Event-ID` on.

    With `tail` from its last events on; one who comes back with `Last-Event-ID` goes on there.
    """
    _require_followable(services, caller, job_id)
    after = int(last_event_id or 0)
    if last_event_id is None and tail is not None:
        with services.db.reading() as session:
            after = events.before_last(session, job_id, tail, types)
    frames = event_frames(services, caller, job_id, after, types)
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
    tail: TailOfLog = None,
) -> StreamingResponse:
    """The output of the training process, all attempts of it, as a file to keep."""
    _require_followable(services, caller, job_id)
    return StreamingResponse(
        log_text(services, job_id, follow=follow, tail=tail),
        media_type="text/plain; charset=utf-8",
        headers=_UNBUFFERED | {"content-disposition": f'attachment; filename="{job_id}.log"'},
    )


def _require_followable(services: Services, caller: Identity, job_id: str) -> None:
    """Raise NotFound or Unavailable before a reply begins."""
    services.streams.require_room()
    with services.db.reading() as session:
        jobs.get(session, caller, job_id)
