"""`python -m training` as a process: exit codes, what it writes, and what a TERM does to it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.runs import curve, events, prepare
from training.__main__ import main
from training.events import Event, Finished, Progress
from training.facts import ModelFacts
from training.inspection import inspect_model
from training.run_directory import RunDirectory, StopReason, verify

ROOT = Path(__file__).parents[2]
LONG = {"optimization": {"max_steps": 5000}, "checkpoints": {"save_steps": 5000}}


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(*arguments: str | Path) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(directory: RunDirectory, seen: Callable[[Event], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if directory.events_file.exists() and any(map(seen, events(directory))):
            return
        time.sleep(0.05)
    pytest.fail("the event did not come")


def in_phase(phase: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Progress) and event.phase == phase


def stop(process: "subprocess.Popen[str]", directory: RunDirectory, reason: StopReason) -> str:
    directory.write_stop_reason(reason)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    return err


def ending(directory: RunDirectory) -> Finished:
    last = events(directory)[-1]
    assert isinstance(last, Finished)
    return last


def test_a_run_succeeds_and_its_log_can_be_read(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        "optimization": {"max_steps": 3},
        "reporting": {"logging_steps": 1, "report_to": ["tensorboard"]},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    code, _, log = call("run", tmp_path)
    assert code == 0, log
    assert ending(directory).outcome == "succeeded"
    phases = [event.phase for event in events(directory) if isinstance(event, Progress)]
    assert phases[0] == "starting"
    assert {"tokenizing", "loading_model", "training", "saving", "exporting"} <= set(phases)
    assert list(curve(directory)) == [1, 2, 3]
    assert verify(directory.result)
    assert verify(directory.checkpoint(3))
    assert list(directory.tensorboard.iterdir())
    assert "40 rows read" in log
    assert "Warning" not in log
    assert "it/s" not in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "outcome", "saves"),
    [
        ("cancel", "cancelled", False),
        ("lost", "cancelled", False),
        ("pause", "interrupted", True),
        ("drain", "interrupted", True),
    ],
)
def test_a_term_while_training(
    tiny_model: Path, tmp_path: Path, reason: StopReason, outcome: str, *, saves: bool
) -> None:
    directory = prepare(tmp_path, tiny_model, LONG)
    process = start("run", tmp_path)
    wait_for(directory, lambda event: isinstance(event, Progress) and event.step > 2)
    log = stop(process, directory, reason)
    assert process.returncode == 3, log
    finished = ending(directory)
    assert finished.outcome == outcome
    assert finished.failure is None
    saved = directory.newest_valid_checkpoint()
    assert (saved == directory.checkpoint(finished.step)) if saves else saved is None
    assert not directory.result.exists()


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [False, True])
def test_a_word_to_stop_and_keep_while_training(
    tiny_model: Path, tmp_path: Path, *, signalled: bool
) -> None:
    """It needs no TERM, and one that comes with it changes nothing."""
    directory = prepare(tmp_path, tiny_model, LONG)
    process = start("run", tmp_path)
    wait_for(directory, lambda event: isinstance(event, Progress) and event.step > 2)
    directory.write_stop_reason("stop")
    if signalled:
        process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    finished = ending(directory)
    assert (finished.outcome, finished.stopped_early) == ("succeeded", True)
    assert 2 < finished.step < LONG["optimization"]["max_steps"]
    assert verify(directory.result)
    assert "Stopped on request at step" in log


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["starting", "tokenizing"])
def test_a_term_before_training_ends_quickly(tiny_model: Path, tmp_path: Path, phase: str) -> None:
    rows = [{"prompt": "a" * 200, "completion": str(i)} for i in range(200_000)]
    directory = prepare(tmp_path, tiny_model, LONG, rows=rows, format="prompt_completion")
    process = start("run", tmp_path)
    wait_for(directory, in_phase(phase))
    began = time.monotonic()
    log = stop(process, directory, "drain")
    assert process.returncode == 3, log
    assert time.monotonic() - began < 5
    assert ending(directory).outcome == "interrupted"
    assert not directory.checkpoints.exists()


def test_a_run_that_fails_says_why_and_exits_with_1(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model)
    directory.spec_file.write_text('{"training": {"adapter": {"r": 0}}}')
    code, _, log = call("run", tmp_path)
    assert code == 1
    failure = ending(directory).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_spec", "training.adapter.r")
    assert failure.message in log


def inspected(folder: Path) -> tuple[str, str, set[str]]:
    """What an inspection writes as its result and as its reason, and the modules that it loads."""
    script = (
        "import sys; from training.__main__ import main; "
        "main(['inspect', sys.argv[1]]); open(sys.argv[2], 'w').write(' '.join(sys.modules))"
    )
    loaded = folder.parent / "loaded"
    done = subprocess.run(
        [sys.executable, "-c", script, folder, loaded],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr, set(loaded.read_text().split())


def test_inspection_prints_facts_or_one_sentence_and_loads_no_more_than_it_takes(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    out, err, loaded = inspected(tmp_path / "model")
    assert ModelFacts.model_validate_json(out).architecture == "LlamaForCausalLM"
    assert err == ""
    assert not {"bitsandbytes", "torch._inductor.compile_fx"} & loaded
    (tmp_path / "empty").mkdir()
    out, err, loaded = inspected(tmp_path / "empty")
    assert (out, err) == ("", "The model cannot be used: config.json is missing.\n")
    assert not {"torch", "transformers", "peft", "numpy"} & loaded


def test_a_model_without_a_tokenizer_is_told(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("tokenizer.json"))
    out, err, _ = inspected(model)
    assert out == ""
    assert "The tokenizer cannot be loaded: there is no tokenizer.json, nor what makes one" in err


def test_inspection_writes_facts_to_a_file(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    assert main(["inspect", str(tiny_model), "-o", str(file)]) == 0
    assert ModelFacts.model_validate_json(file.read_bytes()) == inspect_model(tiny_model)
    assert main(["inspect", str(tmp_path)]) == 1


@pytest.mark.parametrize("target", ["x.gguf", "model"])
def test_a_conversion_replaces_nothing_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no gguf")
    assert main(["convert", str(tmp_path / "x.gguf"), str(tmp_path / target)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_the_command_line_itself_is_light() -> None:
    script = "import sys, training.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "peft", "numpy"} & set(loaded)
