"""Checkpoints on their way to the store while training goes on, and back when a job is resumed.

A stored checkpoint exists once the database names its manifest, which happens after its last
file is in the store; keys hold the attempt, so that no two attempts ever write the same one.
"""

import logging
import os
import queue
import shutil
import threading
import time
from types import TracebackType
from typing import Self

from jobs.artifacts.base import ArtifactStore
from jobs.service.claims import StoredCheckpoint
from jobs.service.records import Fenced, record_checkpoint
from training.events import CheckpointSaved
from training.ledger import best_step_of
from training.run_directory import (
    MANIFEST,
    RunDirectory,
    read_manifest,
    remove_folder,
    verify,
    write_atomically,
)
from worker.active_run import ActiveRun
from worker.outages import GaveUp
from worker.transfers import Check, Mismatch, download, upload_expected

_TRIES = 3
_PAUSE_SECONDS = 2.0
_log = logging.getLogger(__name__)


class CheckpointUploads:
    """Uploads checkpoints in the order they are saved, in a thread of its own.

    Training deletes its older ones as it goes on: what is on its way is held under a name of its
    own, so that a slow store gets whole checkpoints, if fewer, of a fast training.
    """

    def __init__(self, active: ActiveRun, prefix: str) -> None:
        self._active = active
        self._prefix = prefix
        self._waiting: queue.SimpleQueue[CheckpointSaved | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until everything added is stored, or not worth storing any more."""
        self._waiting.put(None)
        self._thread.join()

    def add(self, saved: CheckpointSaved) -> None:
        self._waiting.put(saved)

    def _work(self) -> None:
        while (saved := self._waiting.get()) is not None:
            try:
                self._store_patiently(saved)
            except (Fenced, GaveUp):
                return
            finally:
                remove_folder(self._active.directory.held_checkpoint)

    def _store_patiently(self, saved: CheckpointSaved) -> None:
        """Store it, or say in the worker's log why not: training does not depend on it."""
        is_held = False
        for attempt in range(1, _TRIES + 1):
            try:
                is_held = is_held or self._hold(saved)
                if is_held:
                    self._store(saved)
                else:
                    _log.info("%s gave way to newer ones before it was stored", saved.name)
            except (OSError, ValueError, Mismatch) as error:
                _log.warning("checkpoint %s, try %d: %s", saved.name, attempt, error)
                time.sleep(_PAUSE_SECONDS if attempt < _TRIES else 0)
            else:
                return

    def _hold(self, saved: CheckpointSaved) -> bool:
        """Give it a second name, under which it outlives its deletion; whether it was whole."""
        directory = self._active.directory
        folder, held = directory.checkpoint(saved.step), directory.held_checkpoint
        remove_folder(held)
        try:
            shutil.copytree(folder, held, copy_function=_link)
            return all((held / entry.path).exists() for entry in read_manifest(held).files)
        except OSError:
            if (folder / MANIFEST).exists():
                raise
            return False

    def _store(self, saved: CheckpointSaved) -> None:
        held = self._active.directory.held_checkpoint
        manifest = read_manifest(held)
        key_prefix = f"{self._prefix}/{saved.name}"
        for entry in manifest.files:
            upload_expected(
                self._active.host.store,
                held / entry.path,
                f"{key_prefix}/{entry.path}",
                entry.sha256,
                self._check,
            )

        self._active.write(
            lambda session: record_checkpoint(
                session,
                self._active.fence,
                saved,
                key_prefix=key_prefix,
                manifest=manifest,
            )
        )
        self._remove_older(saved)

    def _remove_older(self, saved: CheckpointSaved) -> None:
        """Local copies before this one but the best: training needs that and the newest."""
        for folder in self._active.directory.checkpoints.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            if number.isdigit() and saved.step > int(number) != saved.best_step:
                remove_folder(folder)

    def _check(self) -> None:
        self._active.check_held()
        if self._active.heartbeat.orders.cancelled:
            raise GaveUp


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # the file system has no links
        shutil.copyfile(source, target)


def restore_newest(
    store: ArtifactStore,
    checkpoints: tuple[StoredCheckpoint, ...],
    directory: RunDirectory,
    check: Check,
) -> int | None:
    """Download the newest checkpoint that is whole; its step, or None when there is none.

    What it says was best until then is downloaded as well, if it can be had.
    """
    step = _restore_first(store, checkpoints, directory, check)
    if step is not None:
        best_step = best_step_of(directory.checkpoint(step))
        best = (checkpoint for checkpoint in checkpoints if step != checkpoint.step == best_step)
        _restore_first(store, tuple(best), directory, check)
    return step


def _restore_first(
    store: ArtifactStore,
    checkpoints: tuple[StoredCheckpoint, ...],
    directory: RunDirectory,
    check: Check,
) -> int | None:
    for checkpoint in checkpoints:
        try:
            _restore(store, checkpoint, directory, check)
        except (OSError, Mismatch) as error:
            _log.warning("checkpoint %s is unusable, trying an older one: %s", checkpoint.id, error)
            remove_folder(directory.checkpoint(checkpoint.step))
        else:
            return checkpoint.step
    return None


def _restore(
    store: ArtifactStore, checkpoint: StoredCheckpoint, directory: RunDirectory, check: Check
) -> None:
    folder = directory.checkpoint(checkpoint.step)
    for entry in checkpoint.manifest.files:
        key = f"{checkpoint.key_prefix}/{entry.path}"
        download(store, key, folder / entry.path, entry.sha256, check)
    write_atomically(folder / MANIFEST, checkpoint.manifest.model_dump_json(indent=2).encode())
    if not verify(folder):
        raise Mismatch(f"{folder.name} does not match its manifest")
