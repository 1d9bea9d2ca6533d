"""Watching a job to its end over its event stream, through every broken connection.

The stream's ids are the job's sequence numbers: `Last-Event-ID` makes a new connection go on
where the old one broke, with nothing missed and nothing told twice.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from cli.client import Client, Json, job_path
from cli.errors import ServerAwayError
from cli.progress import JobView
from cli.render import hint, number

_GIVE_UP_SECONDS = 120.0
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class ServerEvent:
    """One event of a text/event-stream; `id` is empty when it has none."""

    id: str
    type: str
    data: Json


def follow(client: Client, job_id: str, view: JobView) -> Json:
    """Show what happens until the job ends.

    Returns:
        The job as it ended.

    Raises:
        CliError: The server refused, or stayed away for two minutes.
    """
    for event in stream(client, job_id):
        if event.type == "end":
            return event.data
        _show(event, view)
    raise AssertionError("a stream ends with an `end` event")


def stream(client: Client, job_id: str, last_id: str = "") -> Iterator[ServerEvent]:
    """Every event of a job from its first one on (or behind `last_id`), the last being `end`.

    Raises:
        CliError: As `follow`.
    """
    heard_at = time.monotonic()
    while True:
        try:
            for event in _connected(client, job_id, last_id):
                heard_at = time.monotonic()
                last_id = event.id or last_id
                yield event
                if event.type == "end":
                    return
        except ServerAwayError as error:
            if time.monotonic() - heard_at > _GIVE_UP_SECONDS:
                raise
            hint(f"{error}; trying again")
        time.sleep(_RETRY_SECONDS)


def _connected(client: Client, job_id: str, last_id: str) -> Iterator[ServerEvent]:
    headers = {"Accept": "text/event-stream"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    with client.stream(job_path(job_id, "/stream"), headers=headers) as response:
        yield from _events(response)


def _events(response: httpx.Response) -> Iterator[ServerEvent]:
    """The event-stream format of the HTML standard, as far as one JSON line an event needs it."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield ServerEvent(
                fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
            )
            fields = {}


def _show(event: ServerEvent, view: JobView) -> None:
    if event.type == "progress":
        phase = event.data["phase"] or event.data["status"]
        view.show(phase, event.data["progress"] or {})
    elif event.type == "metrics":
        if line := _measured(event.data):
            view.say(line)
    elif event.type in {"message", "sample", "checkpoint"}:
        view.say(event.data["message"])


def _measured(event: Json) -> str:
    """Evaluations only: the live line shows the loss of every step already."""
    data = event.get("data") or {}
    if data.get("valid_loss") is None:
        return ""
    return f"step {data.get('step')}: valid_loss {number(data['valid_loss'])}"
