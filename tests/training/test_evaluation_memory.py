"""What an evaluation holds at a time is a batch's, however many rows there are to measure."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tiny_model import VOCAB_SIZE
from tests.training.runs import ROWS, prepare, train, write_rows
from training.documents import Document
from training.loss import HEADS
from training.trainer import FineTuner

_valid_numbers = FineTuner._valid_numbers
FEW, MANY = 8, 64
BATCH = 4


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
        return made


def peak_bytes(tuner: FineTuner, head: str, rows: Sequence[Document]) -> int:
    data = tuner._data
    tuner._data = replace(data, valid=rows, engine=replace(data.engine, head=head))
    with Held() as held:
        assert _valid_numbers(tuner)
    tuner._data = data
    return held.peak_bytes


def test_more_rows_take_no_more_memory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks: dict[tuple[str, int], int] = {}
    all_logits: list[int] = []

    def measuring(tuner: FineTuner) -> dict[str, float] | None:
        row = max(tuner._data.valid, key=len)
        all_logits.append(MANY * len(row) * VOCAB_SIZE * torch.float32.itemsize)
        for head in HEADS:
            for number in (FEW, MANY):
                peaks[head, number] = peak_bytes(tuner, head, [row] * number)
        return _valid_numbers(tuner)

    monkeypatch.setattr(FineTuner, "_valid_numbers", measuring)
    held_out = {"path": str(write_rows(tmp_path / "valid.jsonl", ROWS[:4])), "format": "messages"}
    optimization = {"max_steps": 1, "per_device_eval_batch_size": BATCH}
    directory = prepare(
        tmp_path, tiny_model, {"optimization": optimization}, validation_files=[held_out]
    )
    assert train(directory).outcome == "succeeded"
    for head in HEADS:
        assert 0 < peaks[head, MANY] <= peaks[head, FEW] * 1.01, peaks
        assert peaks[head, MANY] < all_logits[0] / 2, peaks
