"""Every bad end has a code, a sentence, whose fault it is, and mostly what to do."""

import errno
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tests.training.runs import events, prepare, train
from training.data_files import DataError
from training.events import CheckpointSaved, Metrics
from training.failures import failure_of, invalid_spec
from training.run_spec import RunSpec


def invalid_run() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate({"training": {"adapter": {"r": 0}}})
    return caught.value


def raised_from(cause: Exception) -> Exception:
    error = ValueError("cannot be written")
    error.__cause__ = cause
    return error


CASES: dict[str, tuple[Exception, str, str]] = {
    "said": (invalid_spec("No.", param="a.b", remedy="Do."), "invalid_spec", "spec"),
    "run.json": (invalid_run(), "invalid_spec", "spec"),
    "a row": (DataError(3, "no"), "invalid_data", "data"),
    "gpu": (torch.OutOfMemoryError("CUDA out of memory."), "gpu_out_of_memory", "resources"),
    "memory": (MemoryError(), "host_out_of_memory", "resources"),
    "torch's memory": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 bytes"),
        "host_out_of_memory",
        "resources",
    ),
    "cublas": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "gpu_out_of_memory",
        "resources",
    ),
    "driver's memory": (
        RuntimeError("CUDA error: out of memory"),
        "gpu_out_of_memory",
        "resources",
    ),
    "nccl": (
        torch.distributed.DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:100, unhandled cuda error\n"
            "Last error:\nCuda failure 2 'out of memory'"
        ),
        "gpu_out_of_memory",
        "resources",
    ),
    "triton": (
        RuntimeError("Triton Error [CUDA]: out of memory"),
        "gpu_out_of_memory",
        "resources",
    ),
    "C++'s memory": (RuntimeError("std::bad_alloc"), "host_out_of_memory", "resources"),
    "mmap": (OSError(errno.ENOMEM, "no"), "host_out_of_memory", "resources"),
    "weights on disk": (
        RuntimeError("I/O error: No space left on device (os error 28)"),
        "disk_full",
        "resources",
    ),
    "optimizer on disk": (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 50240 vs 50132"),
        "disk_full",
        "resources",
    ),
    "wrapped": (
        raised_from(OSError(errno.ENOSPC, "No space left on device")),
        "disk_full",
        "resources",
    ),
    "disk": (OSError(errno.ENOSPC, "no"), "disk_full", "resources"),
    "quota": (OSError(errno.EDQUOT, "no"), "disk_full", "resources"),
    "gone": (FileNotFoundError(errno.ENOENT, "no", "a.jsonl"), "file_missing", "infrastructure"),
    "system": (PermissionError(errno.EACCES, "no"), "system_error", "infrastructure"),
    "bug": (KeyError("x"), "internal_error", "infrastructure"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_error_has_a_code_and_a_fault(case: str) -> None:
    error, code, fault = CASES[case]
    failure = failure_of(error)
    assert (failure.code, failure.fault) == (code, fault)
    assert failure.message
    assert failure.remedy


def test_a_loss_that_is_no_number_ends_the_run_at_once(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    directory = prepare(tmp_path / "run", model, {"optimization": {"max_steps": 5}})
    finished = train(directory)
    assert finished.outcome == "failed"
    assert finished.failure is not None
    assert finished.failure.code == "nan_loss"
    assert "at step 1" in finished.failure.message
    assert not any(isinstance(event, Metrics | CheckpointSaved) for event in events(directory))
    assert not directory.result.exists()


def test_a_loss_that_explodes_ends_the_run(tiny_model: Path, tmp_path: Path) -> None:
    wild = {"max_steps": 50, "learning_rate": 100, "weight_decay": 100, "warmup_steps": 0}
    settings = {"adapter": {"type": "none"}, "optimization": wild}
    finished = train(prepare(tmp_path, tiny_model, settings))
    assert finished.failure is not None
    assert finished.failure.code == "nan_loss"
    assert 1 <= finished.step < 50


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"model": {"dtype": "float16"}}, "training.model.dtype"),
        (
            {"model": {"attn_implementation": "flash_attention_2"}},
            "training.model.attn_implementation",
        ),
        ({"data": {"max_length": 257}}, "training.data.max_length"),
    ],
)
def test_what_this_machine_or_model_cannot_do_is_refused(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    param: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finished = train(prepare(tmp_path, tiny_model, settings))
    assert finished.failure is not None
    assert (finished.failure.code, finished.failure.param) == ("invalid_spec", param)


def test_a_gpu_that_torch_cannot_use_is_not_replaced_by_the_cpu(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    finished = train(prepare(tmp_path, tiny_model))
    assert finished.failure is not None
    assert (finished.failure.code, finished.failure.fault) == ("gpu_unusable", "infrastructure")


def test_a_model_that_is_not_there_is_missing(tmp_path: Path) -> None:
    finished = train(prepare(tmp_path, tmp_path / "nowhere"))
    assert finished.failure is not None
    assert finished.failure.code == "model_missing"


def test_a_model_whose_weights_do_not_load_is_not_loadable(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "tokenizer.json").write_text("{}")
    finished = train(prepare(tmp_path / "run", model))
    assert finished.failure is not None
    assert finished.failure.code == "model_not_loadable"


def test_a_bad_row_names_its_line(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"messages": []}\n')
    with pytest.raises(DataError, match="line 41") as caught:
        train(directory)
    assert failure_of(caught.value).code == "invalid_data"


def test_an_answer_that_takes_no_loss_anywhere_fails(tiny_model: Path, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "no", "weight": 0},
    ]
    finished = train(prepare(tmp_path, tiny_model, rows=[{"messages": turns}] * 4))
    assert finished.failure is not None
    assert finished.failure.code == "no_target_tokens"
