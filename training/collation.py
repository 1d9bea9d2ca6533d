"""Batches for the model, under the names of transformers.

Shapes: B rows (or blocks), T tokens of the longest one.

    input_ids        [B, T]
    labels           [B, T]  the token itself where it takes loss, else -100
    attention_mask   [B, T]  padded batches only
    position_ids     [B, T]  packed batches only: they restart at 0 with every document
    num_tokens       []      tokens that are not padding; the trainer's, not the model's
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.encoding import Document
from training.packing import Block

IGNORED = -100
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class PaddedCollator:
    """One document a row, padded on the right; the padding is masked by place, not by token."""

    pad_token_id: int

    def __call__(self, documents: Sequence[Document]) -> Batch:
        shape = len(documents), max(map(len, documents))
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        for row, document in enumerate(documents):
            length = len(document)
            input_ids[row, :length] = document.input_ids
            labels[row, :length] = _labels(document)
            attention_mask[row, :length] = 1
        return _tensors(
            input_ids=input_ids,
            labels=labels,
            attention_mask=attention_mask,
            num_tokens=attention_mask.sum(),
        )


@dataclass(frozen=True)
class PackedCollator:
    """One block of documents a row and no mask: see `training.packing`.

    Attributes:
        flatten: All blocks in one row without padding, as flash attention wants it. Elsewhere
            the mask that the model builds would grow with the square of that row.
    """

    pad_token_id: int
    flatten: bool

    def __call__(self, blocks: Sequence[Block]) -> Batch:
        if self.flatten:
            blocks = [[document for block in blocks for document in block]]
        shape = len(blocks), max(sum(map(len, block)) for block in blocks)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        # A padding token at position 0 is a document of its own, which nothing else sees.
        position_ids = np.zeros(shape, dtype=np.int64)
        for row, block in enumerate(blocks):
            start = 0
            for document in block:
                place = slice(start, start + len(document))
                input_ids[row, place] = document.input_ids
                labels[row, place] = _labels(document)
                position_ids[row, place] = np.arange(len(document))
                start = place.stop
        return _tensors(
            input_ids=input_ids,
            labels=labels,
            position_ids=position_ids,
            num_tokens=np.int64(sum(len(document) for block in blocks for document in block)),
        )


def _labels(document: Document) -> NDArray[np.int64]:
    return np.where(document.is_target, document.input_ids, IGNORED)


def _tensors(**arrays: NDArray[np.int64] | np.int64) -> Batch:
    return {name: torch.as_tensor(array) for name, array in arrays.items()}
