"""One process of a run, watched from its start to its end.

It and all it started are gone when `watch` returns or raises, whatever else happens.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.service.records import Fenced
from jobs.states import Intent
from worker.active_run import ActiveRun
from worker.launchers.base import ExitReport, RunHandle
from worker.relay import Relays
from worker.stopping import Reason, StopLadder, reason_to_stop

_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Watched:
    """How it went: why the process was stopped, if it was, and how it ended."""

    reason: Reason | None
    report: ExitReport


def watch(
    run: ActiveRun,
    command: Sequence[str],
    env: Mapping[str, str],
    relays: Relays,
    silence_seconds: float | None,
) -> Watched:
    """Start a command in the run's directory and stay until it is gone.

    Args:
        run: The run it belongs to.
        command: Program and arguments.
        env: Its whole environment.
        relays: Carry its words into the database meanwhile.
        silence_seconds: Longest time without an event before it counts as hung; None: any.

    Raises:
        Fenced: The run is no longer ours; the process was killed.
        GaveUp: The worker had no time left to relay its last words.
    """
    relays.events.spoke_at = time.monotonic()
    handle = run.host.launcher.start(command, env, run.directory.path)
    ladder = StopLadder(handle, run.directory, run.host.settings)
    try:
        while (report := handle.poll()) is None:
            _decide(run, relays, ladder, silence_seconds)
            ladder.climb()
            _relay(relays, ladder)
            time.sleep(_TICK_SECONDS)
    finally:
        _end(handle)
    if ladder.reason == "lost":
        raise Fenced(run.fence.run_id)
    _relay_rest(run, relays)
    return Watched(ladder.reason, report)


def _decide(
    run: ActiveRun, relays: Relays, ladder: StopLadder, silence_seconds: float | None
) -> None:
    """Whether the process is to stop by now."""
    ladder.keep(wanted=run.heartbeat.orders.intent == Intent.STOP)
    if (reason := reason_to_stop(run.heartbeat, run.host.drain)) is not None:
        ladder.want(reason)
    silent_for = time.monotonic() - relays.events.spoke_at
    if relays.events.finished is not None and silent_for > run.host.settings.stop_grace_seconds:
        ladder.hurry()  # it has said its last word but does not leave
    elif _is_hung(relays, silent_for, silence_seconds):
        ladder.want("hung")
    if run.host.drain.hard.is_set():
        ladder.hurry()


def _is_hung(relays: Relays, silent_for: float, silence_seconds: float | None) -> bool:
    return (
        silence_seconds is not None
        and silent_for > silence_seconds
        and not relays.events.is_waiting()  # else it is the database that is silent
    )


def _relay(relays: Relays, ladder: StopLadder) -> None:
    if ladder.reason == "lost":
        return
    try:
        relays.step()
    except Fenced:
        ladder.want("lost")


def _relay_rest(run: ActiveRun, relays: Relays) -> None:
    """What was written up to the end, also if the database has to be waited for."""
    while relays.step(final=True) or relays.is_waiting():
        if relays.is_waiting():
            run.check_held()
            time.sleep(_TICK_SECONDS)


def _end(handle: RunHandle) -> None:
    while handle.poll() is None:
        handle.signal("KILL")
        handle.wait(timeout_seconds=1.0)
