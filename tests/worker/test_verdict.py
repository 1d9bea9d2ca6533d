"""From what was seen of a run to how it ended."""

import pytest

from jobs.states import RunOutcome
from training.events import Failure, Finished
from worker.launchers.base import ExitReport
from worker.stopping import Reason
from worker.verdict import verdict

FAILURE = Failure(code="nan_loss", message="the loss is NaN", fault="spec")
DONE = Finished(outcome="succeeded", trained_tokens=7)
FAILED = Finished(outcome="failed", failure=FAILURE)
SAVED = Finished(outcome="interrupted")
O = RunOutcome  # noqa: E741 - the table below is read more easily


@pytest.mark.parametrize(
    ("reason", "finished", "report", "outcome", "code"),
    [
        (None, DONE, ExitReport(exit_code=0), O.SUCCEEDED, None),
        (None, DONE, ExitReport(signal=11), O.SUCCEEDED, None),  # died of its own clearing up
        ("drain", DONE, ExitReport(exit_code=0), O.SUCCEEDED, None),  # was faster than the stop
        ("pause", DONE, ExitReport(exit_code=0), O.SUCCEEDED, None),
        ("cancel", DONE, ExitReport(exit_code=0), O.CANCELLED, None),
        (None, FAILED, ExitReport(exit_code=1), O.FAILED, "nan_loss"),
        ("drain", FAILED, ExitReport(exit_code=1), O.FAILED, "nan_loss"),
        ("cancel", FAILED, ExitReport(exit_code=1), O.CANCELLED, None),
        ("cancel", None, ExitReport(signal=9), O.CANCELLED, None),
        ("cancel", None, None, O.CANCELLED, None),
        ("drain", SAVED, ExitReport(exit_code=0), O.INTERRUPTED, None),
        ("drain", None, ExitReport(signal=15), O.INTERRUPTED, None),
        ("drain", None, None, O.INTERRUPTED, None),
        ("pause", None, ExitReport(signal=9), O.INTERRUPTED, None),
        (None, SAVED, ExitReport(exit_code=0), O.INTERRUPTED, None),  # a TERM that was not ours
        ("hung", None, ExitReport(signal=9), O.CRASHED, "hung"),
        (None, None, ExitReport(signal=9), O.CRASHED, "signal_9"),
        (None, None, ExitReport(signal=11), O.CRASHED, "signal_11"),
        (None, None, ExitReport(signal=9, out_of_memory=True), O.CRASHED, "host_out_of_memory"),
        (None, None, ExitReport(exit_code=3), O.CRASHED, "exit_3"),
        (None, None, ExitReport(exit_code=0), O.CRASHED, "exit_0"),
        (None, None, ExitReport(), O.CRASHED, "processes_killed"),
    ],
)
def test_table(
    reason: Reason | None,
    finished: Finished | None,
    report: ExitReport | None,
    outcome: RunOutcome,
    code: str | None,
) -> None:
    ending = verdict(reason, finished, report)
    assert ending.outcome == outcome
    assert (ending.failure.code if ending.failure else None) == code


def test_success_keeps_the_tokens() -> None:
    assert verdict(None, DONE, ExitReport(exit_code=0)).trained_tokens == 7
