"""Two processes train what one would, in every way to share the model, and go on exactly.

Each really runs here: DDP and DeepSpeed on CPUs as in the product, FSDP2 with `fsdp_on_cpu`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.training.adapting import make_mamba, make_mixtral, with_tokenizer
from tests.training.companies import (
    ROOT,
    STEPS,
    company,
    last_word,
    made,
    run_to_end,
    saved_steps,
    settings,
)
from tests.training.runs import curve, events, train
from training.events import Finished, Message, Rewound
from training.run_directory import RunDirectory, verify

pytestmark = pytest.mark.slow

PACKED = {"data": {"eval_split": 0.1, "packing": True, "max_length": 128}}
WHOLE = {"adapter": {"type": "none"}}
OFFLOADED = {"offload": ["optimizer"]}
BOTH_OFFLOADED = {"offload": ["optimizer", "parameters"]}
# Adapters and whole models, padded rows and packed ones: each with some of the strategies.
WAYS: dict[str, dict[str, Any]] = {
    "ddp": settings("ddp"),
    "zero2": settings("zero2", **PACKED),
    "zero2-offload": settings("zero2", **WHOLE, parallelism=OFFLOADED),
    "zero3": settings("zero3", **PACKED),
    "zero3-offload": settings("zero3", **WHOLE, parallelism=BOTH_OFFLOADED),
    "fsdp": settings("fsdp", **PACKED),
    "fsdp-whole": settings("fsdp", **WHOLE),
}
BFLOAT16 = {"model": {"dtype": "bfloat16"}}
SAVED = {"adapter": {"modules_to_save": ["lm_head"]}}
OTHER_WAYS = {
    "ddp-bfloat16": settings("ddp", **BFLOAT16),
    "zero2-bfloat16": settings("zero2", **BFLOAT16),
    "zero2-bfloat16-whole": settings("zero2", **BFLOAT16, **WHOLE),
    "zero2-bfloat16-head": settings("zero2", **BFLOAT16, **SAVED),
    "zero3-bfloat16": settings("zero3", **BFLOAT16),
    "zero3-dora": settings("zero3", adapter={"use_dora": True}),
    "fsdp-bfloat16-whole": settings("fsdp", **BFLOAT16, **WHOLE),
}
ALL_WAYS = WAYS | OTHER_WAYS
RESUMED = [*WAYS, "zero2-bfloat16-whole", "zero3-bfloat16", "fsdp-bfloat16-whole"]
KEPT = ["ddp", "zero2", "zero3", "fsdp"]
_BUILD_SECONDS = 900
TOLERANCE = 2e-5
"""Of losses, relative: sums are made in another order, and CPUs' Adam in another way."""


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What DeepSpeed compiles when it is first used is compiled once for all."""
    folder = tmp_path_factory.mktemp("extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """What one process makes of it, by the kind of run."""
    kinds: dict[str, dict[str, Any]] = {"padded": {}, "packed": PACKED, "whole": WHOLE}
    runs = {}
    for kind, more in kinds.items():
        runs[kind] = made(tmp_path_factory.mktemp(kind), tiny_model, settings("none", **more))
        assert train(runs[kind]).outcome == "succeeded"
    return runs


@pytest.fixture(scope="module")
def together(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """What two make of it, without a break; each is run by the first test that asks."""
    return _Together(tiny_model, tmp_path_factory)


class _Together(dict[str, RunDirectory]):
    def __init__(self, model: Path, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._model = model
        self._folders = folders

    def __missing__(self, way: str) -> RunDirectory:
        run = made(self._folders.mktemp(way), self._model, ALL_WAYS[way])
        finished = run_to_end(run)
        assert finished.outcome == "succeeded", finished.failure
        self[way] = run
        return run


def kind(way: str) -> str:
    if WAYS[way].get("adapter") == WHOLE["adapter"]:
        return "whole"
    return "packed" if WAYS[way]["data"].get("packing") else "padded"


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_whoever_died_while_building_leaves_nobody_waiting(compiled: Path) -> None:
    program = (
        "from training.compiled_ops import load_compiled_ops\n"
        "load_compiled_ops(offloads_optimizer=True)"
    )
    command = [sys.executable, "-P", "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, start_new_session=True) as building:
        marks = [compiled / name / "lock" for name in ("deepspeed_shm_comm", "cpu_adam")]
        while not any(mark.exists() for mark in marks):
            assert building.poll() is None
            time.sleep(0.01)
        os.killpg(building.pid, signal.SIGKILL)  # compilers and all, as a reaper does
    assert any(mark.exists() for mark in marks)
    subprocess.run(command, env=environment, timeout=_BUILD_SECONDS, check=True)


@pytest.mark.parametrize("way", WAYS)
def test_two_train_as_one(
    alone: dict[str, RunDirectory], together: dict[str, RunDirectory], tiny_model: Path, way: str
) -> None:
    one, two = alone[kind(way)], together[way]
    for metric in ("train_loss", "valid_loss", "grad_norm", "train_mean_token_accuracy"):
        expected, found = curve(one, metric), curve(two, metric)
        assert found.keys() == expected.keys()
        rel = TOLERANCE if "loss" in metric else 1e-3
        assert list(found.values()) == pytest.approx(list(expected.values()), rel=rel), metric
    assert curve(two, "trained_tokens") == curve(one, "trained_tokens")
    assert len(curve(two)) == STEPS
    left, right = weights(one.result), weights(two.result)
    assert left.keys() == right.keys()
    assert all(
        tensor.numel() and tensor.shape == left[name].shape for name, tensor in right.items()
    )
    assert verify(two.result)
    assert loads(two.result, tiny_model, is_whole=kind(way) == "whole")


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_two_train_as_one_in_other_ways(
    together: dict[str, RunDirectory], tiny_model: Path, tmp_path: Path, way: str
) -> None:
    alone = {**OTHER_WAYS[way], "parallelism": settings("none")["parallelism"]}
    optimization = settings("none")["optimization"]
    one = made(tmp_path, tiny_model, {**alone, "optimization": optimization})
    two = together[way]
    assert train(one).outcome == "succeeded"
    rel = 0.02 if "bfloat16" in way else TOLERANCE
    for metric in ("train_loss", "valid_loss"):
        expected, found = curve(one, metric), curve(two, metric)
        assert list(found.values()) == pytest.approx(list(expected.values()), rel=rel), metric
    assert loads(two.result, tiny_model, is_whole=way.endswith("whole"))


def test_a_weight_that_the_loss_does_not_depend_on_stops_nobody(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Mamba reads the weight of a layer past its adapter, which then has no gradient."""
    model = with_tokenizer(make_mamba(tmp_path / "mamba"), tiny_model)
    one = made(tmp_path / "one", model, settings("none"))
    two = made(tmp_path / "two", model, settings("ddp"))
    assert train(one).outcome == "succeeded"
    finished = run_to_end(two)
    assert finished.outcome == "succeeded", finished.failure
    for run in (one, two):
        (warning,) = [e for e in events(run) if isinstance(e, Message) and e.level == "warning"]
        assert "what is to be trained of dt_proj: if" in warning.message
    assert list(curve(two).values()) == pytest.approx(list(curve(one).values()), rel=TOLERANCE)


def test_experts_in_parts_are_refused_rather_than_left_out(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = with_tokenizer(make_mixtral(tmp_path / "mixtral"), tiny_model)
    failure = run_to_end(made(tmp_path / "all", model, settings("zero3"))).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_spec", "training.adapter.target_modules")
    named = {"adapter": {"target_modules": ["q_proj", "v_proj"]}}
    one, two = (made(tmp_path / way, model, settings(way, **named)) for way in ("none", "zero3"))
    assert train(one).outcome == run_to_end(two).outcome == "succeeded"
    assert list(curve(two).values()) == pytest.approx(list(curve(one).values()), rel=TOLERANCE)


def loads(result: Path, base: Path, *, is_whole: bool) -> bool:
    """Whether the result loads as anybody would load it, and changes the model."""
    ids = torch.arange(20)[None]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        before = plain(ids).logits
        if is_whole:
            tuned = AutoModelForCausalLM.from_pretrained(result, dtype=torch.float32)
        else:
            tuned = PeftModel.from_pretrained(plain, str(result))
        return not torch.allclose(tuned(ids).logits, before, atol=1e-3)


@pytest.mark.parametrize("way", RESUMED)
def test_a_pause_and_the_death_of_a_process_change_nothing(
    together: dict[str, RunDirectory], tiny_model: Path, tmp_path: Path, way: str
) -> None:
    run = made(tmp_path, tiny_model, ALL_WAYS[way])
    with company(run) as started:
        started.wait_for(step=2)
        started.stop("pause")
        started.end()
    paused = last_word(run, "")
    (step,) = saved_steps(run)
    assert (paused.outcome, paused.step) == ("interrupted", step)
    assert step < STEPS - 2
    run.stop_file.unlink()

    with company(run) as started:
        started.wait_for(step=step + 1)
        started.kill(rank=1)
        assert started.end() == -9, started.log()
    # Nobody was left to say why: the worker sees the signal, as of a process alone.
    assert [event for event in events(run) if isinstance(event, Finished)] == [paused]

    assert run_to_end(run).outcome == "succeeded"
    rewound = [event.step for event in events(run) if isinstance(event, Rewound)]
    assert rewound == [step, step]
    for metric in ("train_loss", "valid_loss", "grad_norm", "trained_tokens"):
        assert curve(run, metric) == curve(together[way], metric), metric
    left, right = weights(together[way].result), weights(run.result)
    assert all(torch.equal(left[name], tensor) for name, tensor in right.items())


@pytest.mark.parametrize("way", KEPT)
def test_a_stop_keeps_what_all_have_trained(tiny_model: Path, tmp_path: Path, way: str) -> None:
    run = made(tmp_path, tiny_model, WAYS[way])
    with company(run) as started:
        started.wait_for(step=2)
        started.stop("stop")
        assert started.end() == 0, started.log()
    finished = last_word(run, "")
    assert (finished.outcome, finished.stopped_early) == ("succeeded", True)
    assert 2 < finished.step < STEPS
    assert saved_steps(run) == [finished.step]
    held, exported = (weights(folder) for folder in (run.checkpoint(finished.step), run.result))
    assert all(torch.equal(held[name], tensor) for name, tensor in exported.items())


def test_dropout_goes_on_where_it_was_in_every_process(tiny_model: Path, tmp_path: Path) -> None:
    dropping = settings("ddp", adapter={"lora_dropout": 0.2})
    whole, paused = (made(tmp_path / name, tiny_model, dropping) for name in ("whole", "paused"))
    assert run_to_end(whole).outcome == "succeeded"
    with company(paused) as started:
        started.wait_for(step=2)
        started.stop("drain")
        started.end()
    paused.stop_file.unlink()
    assert run_to_end(paused).outcome == "succeeded"
    assert curve(paused) == curve(whole)


def test_a_checkpoint_in_other_parts_is_refused(
    together: dict[str, RunDirectory], tiny_model: Path, tmp_path: Path
) -> None:
    run = made(tmp_path, tiny_model, settings("ddp", parallelism={"num_processes": 1}))
    parts = together["ddp"].checkpoint(STEPS)
    run.checkpoints.mkdir()
    run.checkpoint(STEPS).symlink_to(parts)
    finished = run_to_end(run)
    assert finished.failure is not None
    assert finished.failure.code == "checkpoint_mismatch"
    assert "in 2 parts" in finished.failure.message
    told = [event.message for event in events(run) if isinstance(event, Message)]
    assert not [message for message in told if "damaged" in message]


def test_a_cancel_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    run = made(tmp_path, tiny_model, WAYS["ddp"])
    with company(run) as started:
        started.wait_for(step=2)
        started.stop("cancel")
        assert started.end() == 3, started.log()
    assert last_word(run, "").outcome == "cancelled"
    assert saved_steps(run) == []
    assert not run.result.exists()
