"""The one sequence of a job (or model): messages, metrics, checkpoints, status changes and log.

Numbers come from a counter row that stays locked until commit: commit order is sequence order,
so a reader that has seen number n has seen every number below it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.identity import Identity
from jobs.lists import events_page
from jobs.models import Event, EventCounter, new_id, table_of
from jobs.pages import Page
from jobs.repository import job_of
from training.events import Level

SHOWN_TYPES = ("message", "metrics", "sample")
_LOG_CHUNKS = 50
EVENT_TYPES = (*SHOWN_TYPES, "checkpoint", "status", "rewound", "log")


@dataclass(frozen=True)
class Draft:
    """An event before it has its number."""

    type: str
    message: str
    level: Level = "info"
    data: dict[str, Any] | None = None
    attempt: int = 0
    step: int | None = None


def open_stream(session: Session, stream_id: str, drafts: Sequence[Draft] = ()) -> None:
    """Begin the sequence of a job or model; once, in the transaction that makes it."""
    session.execute(_OPEN, {"stream_id": stream_id, "last_seq": len(drafts)})
    _insert(session, stream_id, 1, drafts)


def append(session: Session, stream_id: str, drafts: Sequence[Draft]) -> None:
    """Give the drafts the next numbers, in order."""
    if not drafts:
        return
    last_seq = session.execute(_ADVANCE, {"stream": stream_id, "count": len(drafts)}).scalar_one()
    _insert(session, stream_id, last_seq - len(drafts) + 1, drafts)


_OPEN = insert(table_of(EventCounter))
_ADVANCE = (
    update(table_of(EventCounter))
    .where(EventCounter.stream_id == bindparam("stream"))
    .values(last_seq=EventCounter.last_seq + bindparam("count"))
    .returning(EventCounter.last_seq)
)
_INSERT = insert(table_of(Event))


def _insert(session: Session, stream_id: str, first: int, drafts: Sequence[Draft]) -> None:
    if not drafts:
        return
    at = now(session)
    session.execute(
        _INSERT,
        [
            {
                "stream_id": stream_id,
                "seq": seq,
                "id": new_id("ftevent-"),
                "attempt": draft.attempt,
                "step": draft.step,
                "superseded": False,
                "type": draft.type,
                "level": draft.level,
                "message": draft.message,
                "data": draft.data,
                "created_at": at,
            }
            for seq, draft in enumerate(drafts, first)
        ],
    )


def supersede(session: Session, stream_id: str, *, after_step: int, before_attempt: int) -> None:
    """Mark what earlier attempts said of steps that are about to be done again."""
    session.execute(
        update(Event)
        .where(
            Event.stream_id == stream_id,
            Event.step > after_step,
            Event.attempt < before_attempt,
        )
        .values(superseded=True)
    )


def page(
    session: Session,
    identity: Identity,
    job_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    types: Sequence[str] = SHOWN_TYPES,
) -> Page[Event]:
    """A page of a job's events, newest first; raises NotFound."""
    job = job_of(session, identity, job_id)
    return events_page(session, job.id, after=after, limit=limit, types=types)


def since(
    session: Session,
    stream_id: str,
    seq: int,
    limit: int = 500,
    types: Sequence[str] | None = None,
) -> list[Event]:
    """The events after number `seq`, oldest first."""
    query = select(Event).where(Event.stream_id == stream_id, Event.seq > seq)
    if types is not None:
        query = query.where(Event.type.in_(types))
    return list(session.scalars(query.order_by(Event.seq).limit(limit)))


def before_last(
    session: Session, stream_id: str, count: int, types: Sequence[str] | None = None
) -> int:
    """The number after which the last `count` events (of these types) come; 0: all of them."""
    query = select(Event.seq).where(Event.stream_id == stream_id)
    if types is not None:
        query = query.where(Event.type.in_(types))
    return session.scalar(query.order_by(Event.seq.desc()).offset(count).limit(1)) or 0


def last_lines(session: Session, stream_id: str, count: int) -> tuple[str, int]:
    """Where the last lines of a log begin.

    Returns:
        What belongs to them of the chunk in which they begin, and the number of that chunk; what
        follows it belongs to them whole.
    """
    before = None
    while chunks := _log_chunks(session, stream_id, before):
        for seq, text in chunks:
            # The newline that ends the log begins no line.
            body = text.removesuffix("\n") if before is None and seq == chunks[0][0] else text
            if (found := body.count("\n")) >= count:
                beginning = body.rsplit("\n", count)[0] + "\n" if count else text
                return text[len(beginning) :], seq
            count -= found
        before = chunks[-1][0]
    return "", 0


def _log_chunks(session: Session, stream_id: str, before: int | None) -> list[tuple[int, str]]:
    """Some pieces of a log, the newest first."""
    query = select(Event.seq, Event.message).where(
        Event.stream_id == stream_id, Event.type == "log"
    )
    if before is not None:
        query = query.where(Event.seq < before)
    rows = session.execute(query.order_by(Event.seq.desc()).limit(_LOG_CHUNKS))
    return [(seq, text) for seq, text in rows]


def measured(session: Session, stream_id: str) -> list[tuple[int, dict[str, Any]]]:
    """Every step's numbers, in order, without what a later attempt has replaced."""
    query = select(Event.step, Event.data).where(
        Event.stream_id == stream_id, Event.type == "metrics", Event.superseded.is_(False)
    )
    rows = session.execute(query.order_by(Event.step, Event.seq))
    return [(step, data) for step, data in rows if step is not None and data is not None]


def last_seqs(session: Session, stream_ids: Iterable[str]) -> dict[str, int]:
    """The last number of each of these streams."""
    rows = session.execute(
        select(EventCounter.stream_id, EventCounter.last_seq).where(
            EventCounter.stream_id.in_(list(stream_ids))
        )
    )
    return {stream_id: last_seq for stream_id, last_seq in rows}  # noqa: C416 - typed unpacking
