"""A run that checks a data file which the API does not read itself."""

import sys

from jobs.service.endings import Ending
from jobs.service.file_checks import CheckAssignment
from jobs.states import RunOutcome
from training.check_process import read_report
from training.events import Failure
from worker.active_run import ActiveRun
from worker.environment import training_environment
from worker.relay import last_line, relays_of
from worker.stopping import Stopped
from worker.transfers import Mismatch, download
from worker.verdict import Unusable, verdict
from worker.watch import Watched, watch

_CHECKED = frozenset({0, 4})
"""Exit codes of a process that has read the file to its end; the second: it has bad rows."""


def check(active: ActiveRun, assignment: CheckAssignment) -> Ending:
    """Fetch the file and check it in a process that can do nothing else.

    Raises:
        Stopped: The run was to stop.
        Unusable: The file is missing in the store, or has changed there.
        Fenced: The run is no longer ours.
        GaveUp: The worker had no time left.
    """
    folder = active.directory.path
    file, report = folder / f"rows.{assignment.container}", folder / "report.json"
    store = active.host.store
    try:
        download(store, assignment.artifact_key, file, assignment.sha256, active.check)
    except (FileNotFoundError, Mismatch) as error:
        raise Unusable(Ending(RunOutcome.FAILED, _changed(error))) from error
    settings = active.host.settings
    options = {
        "--max-row-bytes": settings.max_line_bytes,
        "--max-errors": settings.max_row_errors,
        "--max-memory-bytes": settings.check_memory_bytes,
        "--max-cpu-seconds": settings.check_cpu_seconds,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-P", "-m", "training", "check", str(file), "-o", str(report)]
    watched = watch(
        active,
        [*command, *words],
        training_environment(active.tag, folder / "home", gpus=()),
        relays_of(active, on_checkpoint=lambda _: None),
        settings.phase_timeout_seconds,
    )
    if _has_checked(watched):
        return Ending(RunOutcome.SUCCEEDED, report=read_report(report))
    if watched.report.exit_code != 1 or watched.reason is not None:
        return verdict(watched.reason, None, watched.report)
    return Ending(RunOutcome.FAILED, _unreadable(last_line(active.directory.log_file)))


def _has_checked(watched: Watched) -> bool:
    if watched.reason not in {None, "hung"}:
        raise Stopped(watched.reason)
    return watched.reason is None and watched.report.exit_code in _CHECKED


def _changed(error: Exception) -> Failure:
    return Failure(
        code="input_changed",
        message=f"the file is missing or has changed: {error}",
        fault="infrastructure",
        remedy="upload the file again",
    )


def _unreadable(message: str) -> Failure:
    return Failure(
        code="file_unreadable",
        message=message,
        fault="data",
        remedy="write the file in smaller row groups or parts, or send JSON Lines",
    )
