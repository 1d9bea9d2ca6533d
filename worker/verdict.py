"""From what was seen of a run to how it ended: one table, without side effects."""

import signal

from jobs.service.endings import Ending
from jobs.states import RunOutcome
from training.events import Failure, Finished
from worker.launchers.base import ExitReport
from worker.stopping import Reason

HUNG = Failure(
    code="hung",
    message="the training process said nothing for too long and was stopped",
    fault="infrastructure",
    remedy="look at the end of the job's log, and at the worker's host and its GPUs",
)

_LOOK_AT_THE_LOG = "look at the end of the job's log; a driver or a library may be at fault"


class Unusable(Exception):  # noqa: N818 - what was found
    """What a run needs is missing or not what it was pinned to; `ending` says so."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending


def verdict(reason: Reason | None, finished: Finished | None, report: ExitReport | None) -> Ending:
    """How the run ended; success is the caller's to confirm, by verifying the result.

    Args:
        reason: Why it was stopped, if it was.
        finished: The last word of the process, if it got to say one.
        report: How the process ended; None when there never was one.
    """
    if reason == "cancel":
        return Ending(RunOutcome.CANCELLED)
    if finished is not None and finished.outcome in {"succeeded", "failed"}:
        return _by_itself(finished)
    if reason in {"drain", "pause"} or (finished and finished.outcome == "interrupted"):
        return Ending(RunOutcome.INTERRUPTED)
    failure = HUNG if reason == "hung" else crash(report or ExitReport())
    return Ending(RunOutcome.CRASHED, failure)


def crash(report: ExitReport) -> Failure:
    """Why a process that did not say so itself has ended."""
    if report.out_of_memory:
        return Failure(
            code="host_out_of_memory",
            message="the host ran out of memory and the kernel killed the training process",
            fault="resources",
            remedy="lower per_device_train_batch_size or max_length, or use a larger host",
        )
    if report.signal is not None:
        name = signal.strsignal(report.signal)
        return Failure(
            code=f"signal_{report.signal}",
            message=f"the training process was killed by signal {report.signal} ({name})",
            fault="infrastructure",
            remedy=_LOOK_AT_THE_LOG,
        )
    if report.exit_code is not None:
        return Failure(
            code=f"exit_{report.exit_code}",
            message=f"the training process exited with code {report.exit_code} without a word",
            fault="infrastructure",
            remedy=_LOOK_AT_THE_LOG,
        )
    return Failure(
        code="processes_killed",
        message="the training process was killed together with what watched over it",
        fault="infrastructure",
        remedy="look for who ends processes on the worker's host, e.g. for memory",
    )


def _by_itself(finished: Finished) -> Ending:
    if finished.outcome == "succeeded":
        return Ending(RunOutcome.SUCCEEDED, trained_tokens=finished.trained_tokens)
    failure = finished.failure or Failure(
        code="unknown",
        message="training failed without saying why",
        fault="infrastructure",
        remedy=_LOOK_AT_THE_LOG,
    )
    return Ending(RunOutcome.FAILED, failure, trained_tokens=finished.trained_tokens)
