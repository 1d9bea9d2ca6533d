"""HF's Trainer on packed blocks whose positions restart, with the model's own loss."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from benchmarks.packed_rows import blocks_of
from benchmarks.training_task import Clock, Figures, Task, run_engine
from training.documents import Document
from training.packing import Block

_IGNORED = -100


def train(task: Task) -> Figures:
    clock = Clock()
    trainer = Trainer(
        model=task.adapted(),
        args=TrainingArguments(**task.arguments(), remove_unused_columns=False),
        train_dataset=cast("Dataset[Block]", blocks_of(task)),
        data_collator=_collate,
        callbacks=[clock],
    )
    clock.on_train_begin()
    trainer.train()
    trainer.save_model(task.adapter)
    return clock.figures()


def _collate(blocks: Sequence[Block]) -> dict[str, Tensor]:
    shape = len(blocks), max(sum(map(len, block)) for block in blocks)
    input_ids, position_ids = np.zeros((2, *shape), dtype=np.int64)
    labels = np.full(shape, _IGNORED)
    for row, block in enumerate(blocks):
        for start, document in _placed(block):
            place = slice(start, start + len(document))
            input_ids[row, place] = document.input_ids
            position_ids[row, place] = np.arange(len(document))
            labels[row, place] = np.where(document.is_target, document.input_ids, _IGNORED)
    arrays = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _placed(block: Block) -> Iterator[tuple[int, Document]]:
    start = 0
    for document in block:
        yield start, document
        start += len(document)


if __name__ == "__main__":
    run_engine(train)
