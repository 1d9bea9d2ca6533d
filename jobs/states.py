"""The statuses of a job, the moves between them, and how a run's end decides the next one.

`docs/state_machine.md` draws this file; a test compares the two.
"""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """OpenAI's words. A status tells what is; an `Intent` what is wanted."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Intent(StrEnum):
    """What was asked of a job and has not happened yet.

    `pause` is for a running job; `stop` (end with what is trained) outlives a run that ended
    before it could, so a queued job may have it, too.
    """

    PAUSE = "pause"
    STOP = "stop"


class RunKind(StrEnum):
    """What a run does; only `train` needs its job running."""

    TRAIN = "train"
    INSPECT = "inspect"
    CHECK = "check"
    EXPORT = "export"


class RunOutcome(StrEnum):
    """How a run ended.

    `interrupted` was asked to stop and saved; `crashed` ended without saying why; `lost` stopped
    renewing its lease; `cancelled` ended because its job was cancelled.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CRASHED = "crashed"
    LOST = "lost"
    CANCELLED = "cancelled"


class UploadStatus(StrEnum):
    """Where an upload in parts stands; OpenAI's words."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class FileStatus(StrEnum):
    """Where an uploaded file stands; OpenAI's words. `uploaded`: it is still to be checked."""

    UPLOADED = "uploaded"
    PROCESSED = "processed"
    ERROR = "error"


class ExportStatus(StrEnum):
    """Where an export of a job stands, in the words of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_EXPORT = frozenset({ExportStatus.QUEUED, ExportStatus.RUNNING})

_S = JobStatus
MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    _S.VALIDATING_FILES: frozenset({_S.QUEUED, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.QUEUED, _S.PAUSED, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.VALIDATING_FILES, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, following in MOVES.items() if not following)
OPEN = frozenset(JobStatus) - TERMINAL

_GOES_ON: Mapping[Intent | None, JobStatus] = {
    None: _S.QUEUED,
    Intent.PAUSE: _S.PAUSED,
    Intent.STOP: _S.QUEUED,
}
SETTLE: Mapping[RunOutcome, Mapping[Intent | None, JobStatus]] = {
    RunOutcome.SUCCEEDED: dict.fromkeys(_GOES_ON, _S.SUCCEEDED),
    RunOutcome.FAILED: dict.fromkeys(_GOES_ON, _S.FAILED),
    RunOutcome.INTERRUPTED: _GOES_ON,
    RunOutcome.CRASHED: _GOES_ON,
    RunOutcome.LOST: _GOES_ON,
    RunOutcome.CANCELLED: _GOES_ON,
}


def settle(outcome: RunOutcome, intent: Intent | None, *, exhausted: bool) -> JobStatus:
    """The status of a running job whose run ended.

    Args:
        outcome: How the run ended.
        intent: What was wanted of the job.
        exhausted: Whether the job has used up its crashes (or lost runs); it then fails instead
            of going on.
    """
    following = SETTLE[outcome][intent]
    return _S.FAILED if exhausted and following == _S.QUEUED else following
