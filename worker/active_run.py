"""A run that this worker holds, and what every step of it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.orm import Session

from jobs.service.claims import Claim
from jobs.service.records import Fence, Fenced, free_slots
from training.run_directory import RunDirectory
from worker.heartbeat import Heartbeat
from worker.host import Host
from worker.outages import GaveUp, persistently
from worker.stopping import Stopped, reason_to_stop

T = TypeVar("T")


@dataclass(frozen=True)
class ActiveRun:
    """A claimed run with its beating heart and its directory."""

    host: Host
    claim: Claim
    fence: Fence
    heartbeat: Heartbeat
    directory: RunDirectory
    tag: str

    def write(self, step: Callable[[Session], T]) -> T:
        """One transaction, tried until the database answers.

        Raises:
            Fenced: The run is no longer ours.
            GaveUp: It is not wanted any more while the database is away.
        """

        def once() -> T:
            with self.host.database.writing() as session:
                return step(session)

        return persistently(once, self.heartbeat.given_up)

    def read(self, step: Callable[[Session], T]) -> T:
        """One look, tried until the database answers; raises GaveUp as `write` does."""

        def once() -> T:
            with self.host.database.reading() as session:
                return step(session)

        return persistently(once, self.heartbeat.given_up)

    def free_slots(self) -> None:
        """The hardware is free: the next run need not wait for this one's uploads."""
        self.write(lambda session: free_slots(session, self.fence))
        self.host.slots_freed()

    def check(self) -> None:
        """Pass while the run is to go on.

        Raises:
            Fenced: It is no longer ours.
            Stopped: It is to stop.
        """
        reason = reason_to_stop(self.heartbeat, self.host.drain)
        if reason == "lost":
            raise Fenced(self.fence.run_id)
        if reason is not None:
            raise Stopped(reason)

    def check_held(self) -> None:
        """Pass while what was done is still worth storing.

        Raises:
            Fenced: The run is no longer ours.
            GaveUp: The worker has no time left.
        """
        if self.heartbeat.fenced.is_set():
            raise Fenced(self.fence.run_id)
        if self.host.drain.hard.is_set():
            raise GaveUp
