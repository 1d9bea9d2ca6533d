"""Batches for the model, under the names of transformers.

Shapes: B rows, T tokens of the longest one, N tokens that take loss, K documents.

    input_ids            [B, T]
    attention_mask       [B, T]  padded batches only
    position_ids         [B, T]  packed batches only: they restart at 0 with every document
    cu_seq_lens_q, _k    [K + 1] flash attention only: where each document begins, and the end
    max_length_q, _k     int     flash attention only: tokens of the longest document
    targets              [N]     the tokens that take loss
    places               [N]     where each is predicted: the place before it, among all B·T
    num_tokens           int     tokens that are not padding
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.documents import Document
from training.packing import Block

Batch = dict[str, Any]
"""Tensors, and numbers that the host needs without asking the device."""


class Collator(Protocol):
    """Makes a batch of documents, or of blocks of them."""

    def __call__(self, rows: Sequence[Any], /) -> Batch: ...


def on_device(batch: Batch, device: torch.device) -> Batch:
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


@dataclass(frozen=True)
class PaddedCollator:
    """One document a row, padded on the right; the padding is masked by place, not by token."""

    pad_token_id: int

    def __call__(self, documents: Sequence[Document]) -> Batch:
        rows = _Rows([[document] for document in documents], self.pad_token_id)
        lengths = np.asarray([len(document) for document in documents])
        attention_mask = np.arange(rows.input_ids.shape[1]) < lengths[:, None]
        return rows.batch(attention_mask=attention_mask.astype(np.int64))


@dataclass(frozen=True)
class PackedCollator:
    """One block of documents a row and no mask, for a model that makes its own of the positions."""

    pad_token_id: int

    def __call__(self, blocks: Sequence[Block]) -> Batch:
        rows = _Rows(blocks, self.pad_token_id)
        return rows.batch(position_ids=rows.position_ids)


@dataclass(frozen=True)
class FlatCollator:
    """All documents in one row without padding, for attention that takes each by itself.

    Attributes:
        tells_lengths: As flash attention wants them, so that it need not ask the device.
    """

    tells_lengths: bool = False

    def __call__(self, rows: Sequence[Document | Block]) -> Batch:
        documents = [
            document for row in rows for document in ([row] if isinstance(row, Document) else row)
        ]
        flat = _Rows([documents], 0)
        return flat.batch(
            position_ids=flat.position_ids,
            **(_lengths(documents) if self.tells_lengths else {}),
        )


def _lengths(documents: Sequence[Document]) -> dict[str, Any]:
    lengths = [len(document) for document in documents]
    borders = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


class _Rows:
    """Documents one after the other in each row, and padding behind the last."""

    def __init__(self, rows: Sequence[Block], pad_token_id: int) -> None:
        shape = len(rows), max(sum(map(len, row)) for row in rows)
        self.input_ids = np.full(shape, pad_token_id, dtype=np.int64)
        # A padding token at position 0 is a document of its own, which nothing else sees.
        self.position_ids = np.zeros(shape, dtype=np.int64)
        self._is_target = np.zeros(shape, dtype=np.bool_)
        self._num_tokens = 0
        for row, documents in enumerate(rows):
            borders = np.cumsum([0, *map(len, documents)]).tolist()
            for document, (start, end) in zip(documents, pairwise(borders), strict=True):
                self.input_ids[row, start:end] = document.input_ids
                self.position_ids[row, start:end] = np.arange(end - start)
                # Nothing predicts the first token of a document.
                self._is_target[row, start + 1 : end] = document.is_target[1:]
            self._num_tokens += borders[-1]

    def batch(self, **more: NDArray[np.int64] | Tensor | int) -> Batch:
        targets = np.flatnonzero(self._is_target)
        arrays = {
            "input_ids": self.input_ids,
            "targets": self.input_ids.reshape(-1)[targets],
            "places": targets - 1,
            **more,
        }
        return {
            "num_tokens": self._num_tokens,
            **{
                name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
                for name, value in arrays.items()
            },
        }
