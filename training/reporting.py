"""The voice of a training process: events for the worker, plain lines for the log. Light."""

import logging
import time

from training.events import (
    CheckpointSaved,
    Event,
    EventWriter,
    Finished,
    Message,
    Metrics,
    Phase,
    Progress,
    Rewound,
    Sample,
)

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Reporter:
    """Writes every event to the file of the run, and those that people read to the log too."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer
        self._newest = Progress(phase="starting")
        self._sent_at = 0.0

    @property
    def step(self) -> int:
        """The last step that was told."""
        return self._newest.step

    def emit(self, event: Event) -> None:
        self._writer.write(event)
        if isinstance(event, Rewound):
            self._newest = self._newest.model_copy(update={"step": event.step})
        level, line = _in_words(event)
        if line:
            log.log(level, "%s", line)

    def tell(self, message: str, **data: object) -> None:
        self.emit(Message(message=message, data=data))

    def warn(self, message: str, **data: object) -> None:
        self.emit(Message(level="warning", message=message, data=data))

    def enter(self, phase: Phase) -> None:
        """Say that a phase begins; the step and the numbers stay as they were."""
        self._newest = self._newest.model_copy(update={"phase": phase})
        self._send()
        log.info("-- %s", phase.replace("_", " "))

    def advance(self, progress: Progress, *, urgent: bool = False) -> None:
        """The newest progress; the file gets it at most every `PROGRESS_SECONDS`."""
        self._newest = progress
        if urgent or time.monotonic() - self._sent_at >= PROGRESS_SECONDS:
            self._send()

    def beat(self) -> None:
        """Repeat the newest progress now and then, as a sign of life in long phases."""
        if time.monotonic() - self._sent_at >= HEARTBEAT_SECONDS:
            self._send()

    def _send(self) -> None:
        self._newest = self._newest.model_copy(update={"at": time.time()})
        self._writer.write(self._newest)
        self._sent_at = time.monotonic()


def _in_words(event: Event) -> tuple[int, str]:
    if isinstance(event, Message):
        return _LEVELS[event.level], event.message
    if isinstance(event, Finished) and event.failure is not None:
        failure = event.failure
        remedy = f" {failure.remedy}" if failure.remedy else ""
        return logging.ERROR, f"failed ({failure.code}): {failure.message}{remedy}"
    return logging.INFO, _fact_in_words(event)


def _fact_in_words(event: Event) -> str:
    words = ""
    match event:
        case Metrics(step=step, metrics=metrics):
            numbers = (
                f"{name} {value:.6g}" for name, value in metrics.items() if value is not None
            )
            words = f"step {step}: {', '.join(numbers)}"
        case CheckpointSaved(name=name, bytes=num_bytes):
            words = f"saved {name} ({num_bytes:,} bytes)"
        case Sample(prompt=prompt, completion=completion):
            words = f"sample: {prompt!r} -> {completion!r}"
        case Rewound(step=step):
            words = f"going on from step {step}"
        case Finished(outcome=outcome):
            words = f"finished: {outcome}"
    return words
