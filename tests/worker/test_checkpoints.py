"""Checkpoints on their way to a store that is slower than the training that makes them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy.orm import Session

from jobs.artifacts.local import LocalStore, LocalWriter
from jobs.models import Checkpoint
from jobs.service.records import Fence
from tests.jobs.world import World, fence_of, offer
from training.events import CheckpointSaved
from training.run_directory import RunDirectory, complete_folder, read_manifest, remove_folder
from worker.active_run import ActiveRun
from worker.checkpoints import CheckpointUploads

FILES = {"weights.bin": b"w" * 1000, "deeper/state.bin": b"s" * 1000}


class SlowStore(LocalStore):
    """Waits before each file until it is told to go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_asked, self.may_go_on = Event(), Event()

    @contextmanager
    def create(self, key: str) -> Iterator[LocalWriter]:
        self.is_asked.set()
        assert self.may_go_on.wait(20)
        with super().create(key) as writer:
            yield writer


@dataclass
class Held:
    """Of an active run what an upload asks for."""

    world: World
    fence: Fence
    directory: RunDirectory
    host: SimpleNamespace
    heartbeat: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(orders=SimpleNamespace(cancelled=False))
    )

    def write(self, step: Callable[[Session], object]) -> None:
        with self.world.db.writing() as session:
            step(session)

    def check_held(self) -> None:
        pass


@pytest.fixture
def run(local_world: World, tmp_path: Path) -> Held:
    local_world.model()
    local_world.submit(training_file=local_world.file().id)
    claim = local_world.claim(offer())
    assert claim is not None
    host = SimpleNamespace(store=SlowStore(tmp_path / "store"))
    return Held(local_world, fence_of(claim), RunDirectory(tmp_path / "run"), host)


def uploads_of(run: Held) -> CheckpointUploads:
    return CheckpointUploads(cast("ActiveRun", run), "jobs/j/attempt-1")


def saved(run: Held, step: int) -> CheckpointSaved:
    with complete_folder(run.directory.checkpoint(step), step=step) as folder:
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content + b"%d" % step)
    return CheckpointSaved(step=step, name=f"checkpoint-{step}", bytes=2000)


def stored(run: Held) -> dict[int, bool]:
    """Each step that is in the database, and whether all of it is in the store."""
    return {
        checkpoint.step: all(
            run.host.store.local_path(f"{checkpoint.key_prefix}/{name}").read_bytes()
            == content + b"%d" % checkpoint.step
            for name, content in FILES.items()
        )
        for checkpoint in run.world.all(Checkpoint)
    }


def test_what_is_deleted_while_it_is_uploaded_is_stored_whole(run: Held) -> None:
    with uploads_of(run) as uploads:
        uploads.add(saved(run, 5))
        assert run.host.store.is_asked.wait(20)
        remove_folder(run.directory.checkpoint(5))
        run.host.store.may_go_on.set()
    assert stored(run) == {5: True}
    assert not run.directory.held_checkpoint.exists()


def test_what_was_deleted_before_its_turn_keeps_nobody_waiting(run: Held) -> None:
    run.host.store.may_go_on.set()
    told = [saved(run, step) for step in range(5, 50, 5)]
    for checkpoint in told[:-1]:
        remove_folder(run.directory.checkpoint(checkpoint.step))
    began = time.monotonic()
    with uploads_of(run) as uploads:
        for checkpoint in told:
            uploads.add(checkpoint)
    assert stored(run) == {45: True}
    assert time.monotonic() - began < 2, "it was tried again and again"


def test_a_file_system_without_links_holds_copies(
    run: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_names: str) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    run.host.store.may_go_on.set()
    with uploads_of(run) as uploads:
        uploads.add(saved(run, 5))
    assert stored(run) == {5: True}
    assert read_manifest(run.directory.checkpoint(5)).step == 5, "training's own is untouched"
