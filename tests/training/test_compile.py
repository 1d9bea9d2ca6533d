"""A compiled model trains as the plain one does; it takes a compiler, and a minute for that."""

from pathlib import Path
from typing import Any

import pytest
from torch._dynamo.utils import counters

from tests.training.runs import curve, prepare, train
from training.run_directory import RunDirectory

# The compiler warns of what it uses itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


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
