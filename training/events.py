"""What a training process says while it works: one JSON object a line, appended to a file.

The file is the only channel out of the process. The worker relays its whole lines; a line that
a crash cut short has no newline and is not read.
"""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Phase = Literal[
    "starting",
    "loading_model",
    "tokenizing",
    "training",
    "evaluating",
    "saving",
    "exporting",
    "merging",
    "converting",
    "checking",
    "pushing",
]
Outcome = Literal["succeeded", "failed", "interrupted", "cancelled"]
Fault = Literal["spec", "data", "resources", "infrastructure"]
Level = Literal["info", "warning", "error"]


class Value(BaseModel):
    """A frozen value that refuses unknown keys; NaN and infinity travel as null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Failure(Value):
    """Why a run ended badly, in words its owner can act on."""

    code: str
    message: str
    fault: Fault
    param: str | None = None
    remedy: str | None = None


class _Event(Value):
    at: float = Field(default_factory=time.time, description="Unix seconds.")


class Progress(_Event):
    """Where the run is now; the newest one replaces those before it."""

    type: Literal["progress"] = "progress"
    phase: Phase
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    train_loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


class Metrics(_Event):
    """Numbers measured at a step, under OpenAI's names (`train_loss`, `valid_loss` …)."""

    type: Literal["metrics"] = "metrics"
    step: int
    metrics: dict[str, float | int | None]


class Message(_Event):
    """A sentence for people, with the numbers behind it in `data`."""

    type: Literal["message"] = "message"
    level: Level = "info"
    message: str
    data: dict[str, Any] = {}


class Sample(_Event):
    """What the model answers to one of the spec's sample prompts."""

    type: Literal["sample"] = "sample"
    step: int
    prompt: str
    completion: str


class CheckpointSaved(_Event):
    """A checkpoint whose manifest is on disk; `name` is its folder in `checkpoints/`.

    `best_step` is that of an older or newer one that is to be kept as well.
    """

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    name: str
    bytes: int
    metrics: dict[str, float | int | None] = {}
    best_step: int | None = None


class Rewound(_Event):
    """First event of a resumed run: what came after this step in earlier attempts is void."""

    type: Literal["rewound"] = "rewound"
    step: int


class Finished(_Event):
    """Last event of a run that ended by itself."""

    type: Literal["finished"] = "finished"
    outcome: Outcome
    step: int = 0
    stopped_early: bool = False
    trained_tokens: int | None = None
    metrics: dict[str, float | int | None] = {}
    failure: Failure | None = None


Event = Annotated[
    Progress | Metrics | Message | Sample | CheckpointSaved | Rewound | Finished,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class EventWriter:
    """Appends events to a file, one line each, handed to the kernel at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, event: Event) -> None:
        """Append an event, or nothing of it.

        Raises:
            OSError: It does not fit on the disk; a later event may.
        """
        line = event.model_dump_json(exclude_none=True).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) != len(line):
            self._file.truncate(end)  # half a line would spoil the next one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        self._file.close()


def parse_event(line: bytes) -> Event:
    """Read one line.

    Raises:
        pydantic.ValidationError: The line is not an event of this version.
    """
    return _EVENT.validate_json(line)


def read_events(path: Path, offset_bytes: int = 0) -> Iterator[tuple[Event, int]]:
    """Each whole line from `offset_bytes` on, with the offset that follows it."""
    with path.open("rb") as file:
        file.seek(offset_bytes)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset_bytes += len(line)
            yield parse_event(line), offset_bytes
