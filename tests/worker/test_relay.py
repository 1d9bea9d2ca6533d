"""Words of a process on their way into the database, through outages and lost replies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.models import Event
from jobs.redaction import Redactor
from jobs.service.records import Fence, Fenced
from jobs.states import RunOutcome
from tests.jobs.world import World, fence_of, offer
from training.events import CheckpointSaved, EventWriter, Finished, Metrics, Progress
from worker import relay
from worker.relay import EventRelay, LogRelay


class FlakyDatabase(Database):
    """Fails the next transactions, before or after their commit (a lost reply)."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.failures: list[str] = []

    @contextmanager
    def writing(self) -> Iterator[Session]:
        kind = self.failures.pop(0) if self.failures else None
        if kind == "before":
            raise OperationalError("a test", None, Exception("away"))
        with super().writing() as session:
            yield session
        if kind == "after":
            raise OperationalError("a test", None, Exception("reply lost"))


class Run:
    """A claimed run, its relays, and the files they read."""

    def __init__(self, world: World, folder: Path) -> None:
        world.model()
        job = world.submit(training_file=world.file().id)
        claim = world.claim(offer())
        assert claim is not None
        self.world = world
        self.claim = claim
        self.job_id = job.id
        self.database = FlakyDatabase(world.db.url)
        self.checkpoints: list[CheckpointSaved] = []
        self.events_file = folder / "events.jsonl"
        self.log_file = folder / "output.log"
        fence: Fence = fence_of(claim)
        self.events = EventRelay(
            self.events_file, fence, self.database, world.settings, self.checkpoints.append
        )
        self.log = LogRelay(self.log_file, fence, self.database, Redactor(["s3cret"]))

    def write(self, *losses: float) -> None:
        writer = EventWriter(self.events_file)
        for loss in losses:
            writer.write(Metrics(step=1, metrics={"train_loss": loss}))
        writer.close()

    def losses(self) -> list[float]:
        return [e.data["train_loss"] for e in self._stored("metrics") if e.data]

    def log_chunks(self) -> list[str]:
        return [event.message for event in self._stored("log")]

    def _stored(self, type: str) -> list[Event]:
        events = [e for e in self.world.all(Event) if e.stream_id == self.job_id]
        return [e for e in sorted(events, key=lambda e: e.seq) if e.type == type]


@pytest.fixture
def run(local_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(relay, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(relay, "_LOG_SECONDS", 0.0)
    made = Run(local_world, tmp_path)
    yield made
    made.database.close()


def drain(step: Callable[[], bool]) -> int:
    steps = 0
    while step():
        steps += 1
    return steps


def test_nothing_to_say_yet(run: Run) -> None:
    assert not run.events.step()
    assert not run.log.step()


def test_events_arrive_once_in_order_and_at_most_500_at_a_time(run: Run) -> None:
    run.write(*range(1100))
    assert drain(run.events.step) == 3
    assert run.losses() == list(range(1100))
    run.write(5)
    drain(run.events.step)
    assert run.losses() == [*range(1100), 5]
    assert run.world.run(run.claim.run_id).relayed_bytes == run.events_file.stat().st_size


def test_half_a_line_waits_for_its_end(run: Run) -> None:
    run.write(1)
    whole = run.events_file.read_bytes()
    run.events_file.write_bytes(whole + whole[:20])
    drain(run.events.step)
    assert run.losses() == [1]
    with run.events_file.open("ab") as file:
        file.write(whole[20:])
    drain(run.events.step)
    assert run.losses() == [1, 1]


def test_lines_that_are_no_events_are_skipped(run: Run) -> None:
    run.write(1)
    with run.events_file.open("ab") as file:
        file.write(b'{"type": "of another version"}\n\n\xff\xfe\nnot json\n')
    run.write(2)
    drain(run.events.step)
    assert run.losses() == [1, 2]


@pytest.mark.parametrize("kind", ["before", "after"])
def test_an_outage_neither_loses_nor_repeats_events(run: Run, kind: str) -> None:
    """More is written meanwhile: the batch that is tried again must be the very same."""
    run.write(1, 2)
    run.database.failures = [kind]
    assert not run.events.step()
    assert run.events.is_waiting()
    run.write(3)
    run.database.failures = [kind]
    run.events.step()
    drain(run.events.step)
    assert not run.events.is_waiting()
    assert run.losses() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["before", "after"])
def test_an_outage_neither_loses_nor_repeats_output(run: Run, kind: str) -> None:
    run.log_file.write_text("one\n")
    run.database.failures = [kind]
    assert not run.log.step()
    assert run.log.is_waiting()
    run.log_file.write_text("one\ntwo\n")
    drain(run.log.step)
    assert "".join(run.log_chunks()) == "one\ntwo\n"


def test_checkpoints_and_the_end_are_noticed_once_they_are_relayed(run: Run) -> None:
    saved = CheckpointSaved(step=5, name="checkpoint-5", bytes=1)
    end = Finished(outcome="succeeded", step=5)
    writer = EventWriter(run.events_file)
    for event in (Progress(phase="training", step=5), saved, end):
        writer.write(event)
    writer.close()
    run.database.failures = ["before"]
    run.events.step()
    assert run.checkpoints == []
    assert run.events.finished is None
    drain(run.events.step)
    assert run.checkpoints == [saved]
    assert run.events.finished == end
    assert run.world.job(run.job_id).phase == "training"


def test_a_run_that_was_taken_away_is_refused(run: Run) -> None:
    run.write(1)
    run.log_file.write_text("words\n")
    run.world.finish(run.claim, RunOutcome.LOST)
    with pytest.raises(Fenced):
        run.events.step()
    with pytest.raises(Fenced):
        run.log.step()
    assert run.losses() == []


def test_output_comes_in_whole_lines_and_bounded_chunks(run: Run) -> None:
    run.log_file.write_bytes(b"a line\nand half a li")
    drain(run.log.step)
    assert run.log_chunks() == ["a line\n"]
    run.log_file.write_bytes(b"a line\nand half a line\n" + b"x" * 200_000)
    drain(run.log.step)
    assert drain(lambda: run.log.step(final=True)) == 1
    chunks = run.log_chunks()
    assert chunks[1] == "and half a line\n"
    assert "".join(chunks[2:]) == "x" * 200_000
    assert max(map(len, chunks)) <= 64 << 10


def test_bytes_that_no_database_takes_are_replaced_and_secrets_hidden(run: Run) -> None:
    run.log_file.write_bytes(b"\x00\xff caf\xc3\xa9 s3cret\r50%\r100%\n")
    drain(run.log.step)
    assert run.log_chunks() == ["\ufffd\ufffd caf\u00e9 [redacted]\r50%\r100%\n"]
