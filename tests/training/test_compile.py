"""A compiled model trains as the plain one does; it takes a compiler, and a minute for that."""

from pathlib import Path
from typing import Any

import pytest
from torch._dynamo.utils import counters

from tests.training.runs import curve, events, prepare, train
from tests.vigogne import FLAT
from training.config import TrainingConfig
from training.events import Message
from training.run_directory import RunDirectory

# The compiler warns of what it uses itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

INSTRUCTIONS = [
    {"instruction": f"What is {number} plus 1?", "input": "", "output": f"It is {number + 1}."}
    for number in range(40)
]


def trained(folder: Path, model: Path, **optimization: Any) -> RunDirectory:
    training = {
        "model": {"dtype": "float32"},
        "optimization": {"max_steps": 2, "learning_rate": 0.01, **optimization},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    directory = prepare(folder, model, training)
    assert train(directory).outcome == "succeeded"
    return directory


def test_a_compiled_model_learns_the_same(tiny_model: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", tiny_model)
    counters.clear()
    compiled = trained(tmp_path / "compiled", tiny_model, torch_compile=True)
    assert counters["stats"]["unique_graphs"] > 0
    for metric in ("train_loss", "grad_norm"):
        expected, found = curve(plain, metric), curve(compiled, metric)
        assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-3)
    assert curve(compiled, "trained_tokens") == curve(plain, "trained_tokens")


def seed_like(folder: Path, model: Path, **changes: Any) -> RunDirectory:
    """The command that Tunesmith stands for, in small, and in a precision that CPUs have."""
    small = {"block_size": 256, "max_steps": 3, "logging_steps": 1, "learning_rate": 1e-3}
    batches = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    on_a_cpu = {"torch_dtype": "bfloat16", "fp16": False}
    flat = {**FLAT["2.2"], **small, **batches, **on_a_cpu, **changes}
    directory = prepare(folder, model, rows=INSTRUCTIONS, format="instruct")
    config = TrainingConfig.model_validate(flat)
    directory.write_spec(directory.read_spec().model_copy(update={"training": config}))
    assert train(directory).outcome == "succeeded"
    return directory


def test_the_seeds_command_trains(tiny_model: Path, tmp_path: Path) -> None:
    """Packed blocks, 8 bits, LoRA, recomputed layers and the compiler, all at once."""
    counters.clear()
    compiled = seed_like(tmp_path / "compiled", tiny_model)
    assert counters["stats"]["unique_graphs"] > 0
    plain = seed_like(tmp_path / "plain", tiny_model, torch_compile=False)
    losses = [list(curve(directory).values()) for directory in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0][-1] < losses[0][0]
    (told,) = (e.data for e in events(compiled) if isinstance(e, Message) and "blocks" in e.data)
    assert told["blocks"] < len(INSTRUCTIONS)
    assert list(compiled.tensorboard.rglob("events.out.tfevents.*"))
