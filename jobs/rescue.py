"""The sweep that loses nothing: rings for waiting jobs, closes expired leases, removes leftovers.

A thread in every API and worker process; each of its steps is a guarded write, so several may
sweep at once. A lease is closed only when two sweeps saw the same expiry, and nothing is closed
for one lease time after a first sweep, a sleep of the machine, an outage of the database or a
step of its clock: a worker that could not renew gets the time to do so.
"""

import logging
import random
import threading
import time

from sqlalchemy import Select, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from jobs.artifacts.base import ArtifactStore
from jobs.database import Database, now
from jobs.doorbell import Bell
from jobs.models import Artifact, Checkpoint, Export, File, Job, JobFile, Model, Run
from jobs.service import creations, uploads, webhooks
from jobs.service.catalogue import PENDING
from jobs.service.endings import close_expired
from jobs.service.files import hide_expired
from jobs.service.limits import any_overdue, fail_overdue
from jobs.settings import Settings
from jobs.states import OPEN, OPEN_EXPORT, ExportStatus, FileStatus, JobStatus

_RANDOM = random.SystemRandom()  # the seedable one belongs to whoever imports us
_LOG = logging.getLogger(__name__)
_BATCH = 100
_GAVE_NOTHING = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
_LEFTOVER_SECONDS = 24 * 3600


class Rescue:
    """One sweeping thread; `sweep` can be called by itself, too."""

    def __init__(
        self, database: Database, settings: Settings, bell: Bell, store: ArtifactStore
    ) -> None:
        self._database = database
        self._settings = settings
        self._bell = bell
        self._store = store
        self._seen: dict[str, float] = {}
        self._clock = _Clock(settings.lease_seconds, settings.sweep_seconds)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rescue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def sweep(self) -> None:
        """One pass over everything that may need help."""
        self._close_expired_leases()
        self._fail_overdue_jobs()
        self._ring_for_waiting()
        self._hide_expired_files()
        self._purge_files()
        self._purge_uploads()
        self._purge_checkpoints()
        self._purge_exports()
        self._clean_ended_runs()
        self._clean_runs_of_exports()
        self._forget_what_is_past()
        self._store.remove_leftovers(_LEFTOVER_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.sweep()
            except (SQLAlchemyError, OSError) as error:
                self._clock.restart()
                _LOG.warning("the sweep failed and is tried again: %s", error)
            self._stopping.wait(self._settings.sweep_seconds * _RANDOM.uniform(0.8, 1.2))

    def _close_expired_leases(self) -> None:
        with self._database.reading() as session:
            at = now(session)
            query = select(Run.id, Run.lease_expires_at).where(
                Run.ended_at.is_(None), Run.lease_expires_at < at
            )
            expired = {row.id: row.lease_expires_at for row in session.execute(query)}
        ripe = self._clock.trusts(at)
        for run_id, expires_at in expired.items():
            if ripe and self._seen.get(run_id) == expires_at:
                with self._database.writing() as session:
                    if close_expired(session, run_id, expires_at, self._settings):
                        _LOG.warning("closed run %s, whose lease has expired", run_id)
        self._seen = expired

    def _fail_overdue_jobs(self) -> None:
        with self._database.reading() as session:
            if not any_overdue(session):
                return
        with self._database.writing() as session:
            for job_id in fail_overdue(session):
                _LOG.warning("failed job %s, which is over a limit of its own", job_id)

    def _ring_for_waiting(self) -> None:
        with self._database.reading() as session:
            pools = set(
                session.scalars(
                    select(Job.pool).where(Job.status == JobStatus.QUEUED).distinct().limit(_BATCH)
                )
            )
            pools |= set(session.scalars(_pools_of_exports()))
            if session.scalar(_pending_model()) or session.scalar(_unchecked_file()):
                pools.add(self._settings.worker_pool)
        for pool in pools:
            self._bell.ring(pool)

    def _hide_expired_files(self) -> None:
        """By itself, so that the purge sees every job that was made of one in time."""
        with self._database.writing() as session:
            hide_expired(session)

    def _purge_files(self) -> None:
        """Delete the bytes of hidden files that no open job refers to."""
        needed = select(JobFile.file_id).join(Job).where(Job.status.in_(OPEN))
        with self._database.writing() as session:
            query = select(File).where(
                File.deleted_at.is_not(None), File.purged_at.is_(None), File.id.not_in(needed)
            )
            files = list(session.scalars(query.limit(_BATCH)))
            for file in files:
                file.purged_at = now(session)
        for file in files:
            self._store.delete(file.artifact_key)

    def _purge_uploads(self) -> None:
        """Delete the parts of uploads that are over, those of an upload that has expired too."""
        with self._database.writing() as session:
            finished = uploads.take_finished(session, _BATCH)
        for upload in finished:
            self._delete_below(uploads.prefix(upload.id), keep=set())

    def _purge_checkpoints(self) -> None:
        """Delete the bytes of hidden checkpoints, one lease after they were hidden.

        Not of those that a job starts from, nor if its adapter is of no use without them, nor of
        those that are still to be exported.
        """
        needed = select(Job.id).where(
            Job.start_checkpoint_id == Checkpoint.id, Job.status.not_in(_GAVE_NOTHING)
        )
        exported = select(Export.id).where(
            Export.checkpoint_id == Checkpoint.id, Export.status.in_(OPEN_EXPORT)
        )
        with self._database.writing() as session:
            at = now(session)
            query = select(Checkpoint).where(
                Checkpoint.deleted_at < at - self._settings.lease_seconds,
                Checkpoint.purged_at.is_(None),
                ~needed.exists(),
                ~exported.exists(),
            )
            checkpoints = list(session.scalars(query.limit(_BATCH)))
            for checkpoint in checkpoints:
                checkpoint.purged_at = at
        for checkpoint in checkpoints:
            self._delete_below(f"{checkpoint.key_prefix}/", keep=set())

    def _purge_exports(self) -> None:
        """Delete the files of deleted exports."""
        with self._database.writing() as session:
            query = select(Export).where(Export.deleted_at.is_not(None), Export.purged_at.is_(None))
            exports = list(session.scalars(query.limit(_BATCH)))
            for export in exports:
                export.purged_at = now(session)
        for export in exports:
            if export.artifact_key is not None:
                self._store.delete(export.artifact_key)

    def _clean_runs_of_exports(self) -> None:
        """As `_clean_ended_runs`, of those that made an export."""
        with self._database.writing() as session:
            at = now(session)
            ended = select(Run, Export.artifact_key).join(Export, Export.id == Run.export_id)
            query = ended.where(
                Run.ended_at < at - self._settings.lease_seconds,
                Run.cleaned_at.is_(None),
                Run.export_id.is_not(None),
            )
            found = [(run, key) for run, key in session.execute(query.limit(_BATCH))]
            for run, _ in found:
                run.cleaned_at = at
        for run, key in found:
            prefix = f"exports/{run.export_id}/attempt-{run.attempt}/"
            self._delete_below(prefix, keep=set() if key is None else {key})

    def _clean_ended_runs(self) -> None:
        """Delete what a run has stored and no row names: it ended between upload and commit."""
        with self._database.writing() as session:
            at = now(session)
            query = select(Run).where(
                Run.ended_at < at - self._settings.lease_seconds,
                Run.cleaned_at.is_(None),
                Run.job_id.is_not(None),
            )
            runs = list(session.scalars(query.limit(_BATCH)))
            named = {run.id: _named_keys(session, run) for run in runs}
            for run in runs:
                run.cleaned_at = at
        for run in runs:
            self._delete_below(f"jobs/{run.job_id}/attempt-{run.attempt}/", keep=named[run.id])

    def _forget_what_is_past(self) -> None:
        with self._database.writing() as session:
            creations.forget_old(session)
            webhooks.forget_old(session)

    def _delete_below(self, prefix: str, *, keep: set[str]) -> None:
        for key in list(self._store.keys(prefix)):
            if key not in keep:
                self._store.delete(key)


class _Clock:
    """Tells when expiries can be believed: after a lease time without any disturbance."""

    def __init__(self, lease_seconds: float, sweep_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._tolerance_seconds = max(sweep_seconds, 1.0)
        self._quiet_since = time.monotonic()
        self._offset: float | None = None

    def restart(self) -> None:
        self._quiet_since = time.monotonic()

    def trusts(self, database_time: float) -> bool:
        monotonic = time.monotonic()
        offset = database_time - monotonic
        if self._offset is not None and abs(offset - self._offset) > self._tolerance_seconds:
            self.restart()
        self._offset = offset
        return monotonic - self._quiet_since >= self._lease_seconds


def _pools_of_exports() -> Select[str]:
    waiting = select(Export.pool).where(Export.status == ExportStatus.QUEUED)
    return waiting.distinct().limit(_BATCH)


def _unchecked_file() -> Select[str]:
    unchecked = (File.status == FileStatus.UPLOADED, File.purged_at.is_(None))
    return select(File.id).where(*unchecked).limit(1)


def _pending_model() -> Select[str]:
    return select(Model.id).where(Model.status == PENDING, Model.removed_at.is_(None)).limit(1)


def _named_keys(session: Session, run: Run) -> set[str]:
    artifacts = session.scalars(select(Artifact.key).where(Artifact.job_id == run.job_id))
    checkpoints = session.scalars(
        select(Checkpoint).where(
            Checkpoint.job_id == run.job_id,
            Checkpoint.attempt == run.attempt,
            Checkpoint.purged_at.is_(None),
        )
    )
    files = {
        f"{checkpoint.key_prefix}/{entry['path']}"
        for checkpoint in checkpoints
        for entry in checkpoint.manifest["files"]
    }
    results = session.scalars(
        select(File.artifact_key)
        .join(Job, Job.result_file_id == File.id)
        .where(Job.id == run.job_id, File.purged_at.is_(None))
    )
    return files | set(artifacts) | set(results)
