"""Batches for a model with an encoder, under the names of transformers.

Shapes: B rows, S tokens of the encoder's longest side, T of the decoder's, N tokens that take loss.

    input_ids            [B, S]
    attention_mask       [B, S]
    decoder_input_ids    [B, T]  what the decoder has said so far: the answer, one place later
    targets              [N]     the tokens of the answers
    places               [N]     where each is predicted, among all B·T of the decoder
    num_tokens           int     tokens of both sides that are not padding
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.collation import Batch
from training.documents import Document

_IGNORED = -100


@dataclass(frozen=True)
class Seq2SeqCollator:
    """One document a row, both sides padded on the right; the padding is masked by place.

    Attributes:
        shift: The model's own way from labels to what its decoder is given; it may put a token of
            its own in front.
    """

    pad_token_id: int
    shift: Callable[[Tensor], Tensor]

    def __call__(self, documents: Sequence[Document]) -> Batch:
        sides = [_sides(document) for document in documents]
        input_ids, is_read = _padded([asked for asked, _ in sides], self.pad_token_id)
        labels, is_target = _padded([answer for _, answer in sides], _IGNORED)
        places = np.flatnonzero(is_target)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(is_read.astype(np.int64)),
            "decoder_input_ids": self.shift(torch.from_numpy(labels)),
            "targets": torch.from_numpy(labels.reshape(-1)[places]),
            "places": torch.from_numpy(places),
            "num_tokens": sum(map(len, documents)),
        }


def _sides(document: Document) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the encoder reads, and what the decoder says."""
    start = int(np.argmax(document.is_target))
    return document.input_ids[:start], document.input_ids[start:]


def _padded(
    rows: Sequence[NDArray[np.int32]], padding: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows side by side, and where they are."""
    lengths = np.asarray([len(row) for row in rows])
    is_filled = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_filled.shape, padding, dtype=np.int64)
    padded[is_filled] = np.concatenate(rows)
    return padded, is_filled
