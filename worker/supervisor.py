"""The heart of a worker process: keeps its slots busy, one thread per run.

It claims from the database on a bell, when a slot is given back, and every `poll_seconds`; all it
shares with Celery is `start`, `wake` and `stop`.
"""

import logging
import os
import random
import signal
import threading
import time
from contextlib import ExitStack
from functools import partial

from jobs.artifacts.registry import open_store
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.rescue import Rescue
from jobs.service import claims, endings
from jobs.service.claims import Claim, Offer
from jobs.service.exports import HUB
from jobs.settings import Settings, worker_name
from training.run_directory import remove_folder
from worker.abilities import abilities
from worker.drain import Drain
from worker.environment import training_environment
from worker.gpus import devices_to_offer
from worker.host import Host
from worker.launchers.base import Launcher
from worker.launchers.registry import LAUNCHERS
from worker.launchers.standby import Plan, StandbyLauncher
from worker.lock import hold_name
from worker.outages import UNREACHABLE, GaveUp, persistently
from worker.processes import kill_tagged, tag_of_worker
from worker.runner import run

_JITTER = 0.2
_RETRY_SECONDS = 1.0
_EXIT_SECONDS = 5.0
_RANDOM = random.SystemRandom()  # the seedable one belongs to whoever imports us
_log = logging.getLogger(__name__)


class Supervisor:
    """Claims, runs and, at the end, drains; `start` and `stop` are called once."""

    def __init__(self, settings: Settings, launcher: Launcher | None = None) -> None:
        self._settings = settings
        self._launcher = launcher or LAUNCHERS["standby" if settings.warm_start else "local"]()
        self._woken = threading.Event()
        self._drain = Drain()
        self._runs: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)
        self._held = ExitStack()
        self.failed = False

    def start(self) -> None:
        """Begin to work.

        Raises:
            NameTaken: Another worker lives on the data folder.
        """
        settings = self._settings
        self._held.enter_context(hold_name(settings.data_dir))
        database = Database(settings.resolved_database_url)
        bell, store = Bell(settings), open_store(settings)
        self._host = Host(
            settings=settings,
            worker_id=worker_name(settings),
            database=database,
            store=store,
            bell=bell,
            launcher=self._launcher,
            devices=devices_to_offer(settings),
            drain=self._drain,
            slots_freed=self.wake,
        )
        rescue = Rescue(database, settings, bell, store)
        self._held.callback(database.close)
        self._held.callback(bell.close)
        self._held.callback(rescue.stop)
        self._thread.start()
        rescue.start()

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    def hurry(self) -> None:
        """Kill what still runs; it goes on elsewhere from its last checkpoint."""
        self._drain.hard.set()

    def stop(self) -> None:
        """Let every run save and hand back, within `drain_seconds`, then let go of everything."""
        self._drain.begin(self._settings.drain_seconds)
        self.wake()
        if isinstance(self._launcher, StandbyLauncher):
            self._launcher.end()
        self._thread.join(self._drain.seconds_left)  # from here on no run is added
        for thread in list(self._runs):
            thread.join(self._drain.seconds_left)
        self._drain.hard.set()
        until = time.monotonic() + _EXIT_SECONDS
        for thread in list(self._runs):
            thread.join(max(0.0, until - time.monotonic()))
        self._held.close()

    def _work(self) -> None:
        """The edge of the thread: without it the process is of no use, and ends."""
        try:
            self._clear_up()
            if isinstance(self._launcher, StandbyLauncher):
                self._launcher.begin(self._standby_plan())
            self._claim_for_ever()
        except GaveUp:
            return
        except Exception:  # noqa: BLE001 - a process edge
            _log.critical("the supervisor failed; the worker ends", exc_info=True)
            self.failed = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _claim_for_ever(self) -> None:
        offer = self._offer()
        while not self._drain.begun.is_set():
            try:
                self._claim_all(offer)
                pause_seconds = self._settings.poll_seconds
            except UNREACHABLE as error:
                _log.warning("cannot look for work: %s", error)
                pause_seconds = _RETRY_SECONDS
            self._woken.wait(pause_seconds * _RANDOM.uniform(1 - _JITTER, 1 + _JITTER))
            self._woken.clear()

    def _offer(self) -> Offer:
        gpus, pushes = len(self._host.devices), self._settings.hub_push_token is not None
        return Offer(
            worker_id=self._host.worker_id,
            pool=self._settings.worker_pool,
            gpus=gpus,
            provides=abilities(self._host.devices) | ({HUB} if pushes else set()),
        )

    def _clear_up(self) -> None:
        """Kill what an earlier worker of this name left behind, then close its runs."""
        host = self._host
        killed = kill_tagged(tag_of_worker(self._settings, host.worker_id))
        if killed:
            _log.warning("killed %d processes of an earlier life of this worker", killed)
        remove_folder(self._settings.runs_folder)

        def close() -> list[str]:
            with host.database.writing() as session:
                return endings.abandon(session, host.worker_id, self._settings)

        for run_id in persistently(close, self._drain.begun.is_set):
            _log.warning("closed run %s of an earlier life of this worker", run_id)

    def _standby_plan(self) -> Plan:
        host, settings = self._host, self._settings
        return Plan(
            slots=max(1, len(host.devices)),
            folder=settings.data_dir.resolve() / "standby",
            tag=tag_of_worker(settings, host.worker_id),
            environment=partial(training_environment, gpus=()),
            free_bytes=settings.warm_start_free_bytes,
        )

    def _claim_all(self, offer: Offer) -> None:
        """Claim until nothing fits."""
        with self._host.database.writing() as session:
            claims.register(session, offer)
        while not self._drain.begun.is_set():
            with self._host.database.claiming() as session:
                claim = claims.claim(session, offer, self._settings)
            if claim is None:
                return
            subject = claim.job_id or claim.model_id or claim.export_id or claim.file_id
            _log.info("run %s: %s %s, attempt %d", claim.run_id, claim.kind, subject, claim.attempt)
            self._start(claim)

    def _start(self, claim: Claim) -> None:
        thread = threading.Thread(target=self._run, args=(claim,), name=claim.run_id, daemon=True)
        self._runs.add(thread)
        thread.start()

    def _run(self, claim: Claim) -> None:
        try:
            run(self._host, claim)
        finally:
            self._runs.discard(threading.current_thread())
            self.wake()
