"""Liger's kernels: asked for by name, refused by name where they cannot be."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.training.architectures import tiny
from tests.training.runs import prepare, train
from training.config import TrainingConfig
from training.engine import choose_engine
from training.events import EventWriter
from training.failures import RunError
from training.liger import apply_liger
from training.model import check_device
from training.model_config import ModelConfig
from training.reporting import Reporter

LIGER = {"dtype": "float32", "use_liger_kernel": True}
KERNELS = "liger_kernel.transformers.monkey_patch"


def test_a_job_for_it_waits_for_a_worker_that_has_it() -> None:
    assert TrainingConfig.model_validate({"model": LIGER}).requires == {"cuda", "liger_kernel"}


def test_it_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="need a GPU") as caught:
        check_device(ModelConfig.model_validate(LIGER))
    assert caught.value.failure.param == "training.model.use_liger_kernel"


def kernels(apply: Any, *architectures: str) -> SimpleNamespace:
    """A stand-in for the package, which imports nothing without a GPU."""
    known = dict.fromkeys(architectures)
    return SimpleNamespace(
        MODEL_TYPE_TO_APPLY_LIGER_FN=known, _apply_liger_kernel_to_instance=apply
    )


def test_an_architecture_that_it_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, KERNELS, kernels(None, "llama"))  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no kernels for gpt2"):
        apply_liger(tiny("gpt2"))


def test_its_own_losses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    stand_in = kernels(lambda **options: given.update(options), "llama")
    monkeypatch.setitem(sys.modules, KERNELS, stand_in)  # type: ignore[arg-type]
    model = tiny("llama")
    apply_liger(model)
    assert given == {"model": model, "cross_entropy": False, "fused_linear_cross_entropy": False}


def test_kernels_that_change_the_loss_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def spoil(model: PreTrainedModel, **_options: bool) -> None:
        torch.nn.init.zeros_(model.model.norm.weight)

    monkeypatch.setitem(sys.modules, KERNELS, kernels(spoil, "llama"))  # type: ignore[arg-type]
    writer = EventWriter(tmp_path / "events.jsonl")
    config = TrainingConfig.model_validate({"model": LIGER})
    with pytest.raises(RunError, match="another loss") as caught:
        choose_engine(tiny("llama"), config, 0, Reporter(writer))
    writer.close()
    assert caught.value.failure.param == "training.model.use_liger_kernel"


@pytest.mark.gpu
def test_it_trains(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"model": {"dtype": "bfloat16", "use_liger_kernel": True}}
    assert train(prepare(tmp_path / "run", tiny_model, settings)).outcome == "succeeded"
