"""A wish to stop and keep ends a run with the result of what is trained so far."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import StoppingWriter, adapter, curve, events, prepare, train
from training.events import Event, Finished, Message, Progress
from training.failures import StopRequested
from training.reporting import Reporter
from training.resumption import rewind
from training.run import run
from training.run_directory import RunDirectory, remove_folder, verify
from training.stopping import StopSignal

STEPS = 20
SETTINGS: Mapping[str, Any] = {
    "data": {"eval_split": 0.1},
    "optimization": {"max_steps": STEPS, "learning_rate": 0.01},
    "checkpoints": {"save_steps": 100},
    "evaluation": {"eval_steps": 5},
    "reporting": {"logging_steps": 100, "report_to": []},
}


@pytest.fixture(autouse=True)
def progress_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)


class Asking(StoppingWriter):
    """Puts the word there, or takes it away, when an event comes; sends no signal."""

    def __init__(
        self, directory: RunDirectory, when: Mapping[Callable[[Event], bool], str]
    ) -> None:
        stop = StopSignal(directory)
        super().__init__(directory.events_file, stop, lambda _event: False)
        self.stop = stop
        self._directory = directory
        self._asked = dict(when)

    def write(self, event: Event) -> None:
        super().write(event)
        for seen in [seen for seen in self._asked if seen(event)]:
            word = self._asked.pop(seen)
            if word == "withdraw":
                self._directory.withdraw_stop()
            elif word == "stop":
                self._directory.write_stop_reason("stop")
            else:
                self._directory.write_stop_reason("pause")
                self.stop.request()


def ask(directory: RunDirectory, when: Mapping[Callable[[Event], bool], str]) -> Finished:
    """Do the run, with words written and taken back on the way."""
    writer = Asking(directory, when)
    reporter = Reporter(writer)
    try:
        spec = directory.read_spec()
        return run(directory, spec, rewind(directory, spec, reporter), reporter, writer.stop)
    except StopRequested:
        return Finished(outcome="interrupted", step=reporter.step)
    finally:
        writer.close()


def at(phase: str, step: int | None = None) -> Callable[[Event], bool]:
    def seen(event: Event) -> bool:
        return isinstance(event, Progress) and event.phase == phase and step in {None, event.step}

    return seen


def told(directory: RunDirectory) -> list[str]:
    said = [event.message for event in events(directory) if isinstance(event, Message)]
    return [message for message in said if message.startswith("Stopped")]


def test_it_finishes_its_step_and_exports(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    finished = ask(directory, {at("training", 6): "stop"})
    assert (finished.outcome, finished.step, finished.stopped_early) == ("succeeded", 7, True)
    assert told(directory) == ["Stopped on request at step 7 of 20."]
    assert verify(directory.result)
    assert "7 steps" in (directory.result / "README.md").read_text()
    assert list(curve(directory)) == [1, 7]
    assert list(curve(directory, "valid_loss")) == [5]
    assert [p.name for p in directory.checkpoints.iterdir()] == ["checkpoint-7"]
    assert finished.trained_tokens == curve(directory, "trained_tokens")[7]
    held, exported = adapter(directory.checkpoint(7)), adapter(directory.result)
    assert all((held[name] == tensor).all() for name, tensor in exported.items())


def test_it_measures_nothing_more(tiny_model: Path, tmp_path: Path) -> None:
    """Neither what is due at its step, nor to the end what has just begun."""
    for step, when in ((5, at("training", 4)), (10, at("evaluating", 10))):
        directory = prepare(tmp_path / str(step), tiny_model, SETTINGS)
        assert ask(directory, {when: "stop"}).step == step
        assert step not in curve(directory, "valid_loss")
        assert verify(directory.result)
        assert directory.checkpoint(step).exists()


@pytest.mark.parametrize(("warmup_steps", "step"), [(0, 1), (4, 2)])
def test_a_stop_before_training_waits_for_something_to_keep(
    tiny_model: Path, tmp_path: Path, warmup_steps: int, step: int
) -> None:
    """The first step of a warm-up changes nothing, and a result must change something."""
    settings = {
        **SETTINGS,
        "optimization": {"max_steps": STEPS, "warmup_steps": warmup_steps},
        "evaluation": {"eval_steps": 1},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    finished = ask(directory, {at("tokenizing"): "stop"})
    assert (finished.outcome, finished.step) == ("succeeded", step)
    assert told(directory) == [f"Stopped on request at step {step} of 20."]


def test_a_paused_run_that_is_stopped_exports_at_once(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    assert train(directory, stop_when=at("training", 4), reason="pause").outcome == "interrupted"
    directory.write_stop_reason("stop")
    finished = ask(directory, {})
    assert (finished.outcome, finished.step) == ("succeeded", 5)
    assert told(directory) == ["Stopped on request at step 5 of 20."]
    held, exported = adapter(directory.checkpoint(5)), adapter(directory.result)
    assert all((held[name] == tensor).all() for name, tensor in exported.items())


def test_a_checkpoint_with_nothing_to_keep_is_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        **SETTINGS,
        "optimization": {"max_steps": STEPS, "warmup_steps": 4},
        "checkpoints": {"save_steps": 1},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory, stop_when=at("training", 1), reason="pause").outcome == "interrupted"
    remove_folder(directory.checkpoint(2))
    assert directory.checkpoint(1).exists()
    directory.write_stop_reason("stop")
    finished = ask(directory, {})
    assert (finished.outcome, finished.step) == ("succeeded", 2)


def test_a_stop_that_is_taken_back_in_time_has_never_been(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    finished = ask(directory, {at("tokenizing"): "stop", at("loading_model"): "withdraw"})
    assert (finished.outcome, finished.step, finished.stopped_early) == ("succeeded", STEPS, False)
    assert told(directory) == []


def test_one_that_is_taken_back_too_late_still_ends_well(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    finished = ask(directory, {at("training", 6): "stop", at("saving", 7): "withdraw"})
    assert (finished.outcome, finished.step) == ("succeeded", 7)
    remove_folder(directory.result)
    assert ask(directory, {}).step == STEPS  # another attempt would have gone on


@pytest.mark.parametrize("phase", ["saving", "exporting"])
def test_a_pause_after_a_stop_wins_and_loses_no_step(
    tiny_model: Path, tmp_path: Path, phase: str
) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    finished = ask(directory, {at("training", 6): "stop", at(phase): "pause"})
    assert finished.outcome == "interrupted"
    assert not directory.result.exists()
    directory.withdraw_stop()
    assert ask(directory, {}).step == STEPS
    assert list(curve(directory)) == [1, 7, STEPS]


def test_a_stop_at_the_last_step_is_an_end_like_any(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    finished = ask(directory, {at("training", STEPS - 1): "stop"})
    assert (finished.step, finished.stopped_early) == (STEPS, False)
    assert told(directory) == []
