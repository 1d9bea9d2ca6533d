"""Which rows each process takes: all of them together go through an epoch as one process would.

The order is made once for all (from the seed); of every batch that the processes make together each
takes an equal part. At the end of an epoch some have fewer rows, or none: nothing is repeated to
fill up, and a process without rows runs along on a batch that counts nothing.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from training.collation import Batch
from training.distributed import Crew
from training.documents import Document
from training.packing import Block


def part(rows: Sequence[int], crew: Crew) -> Sequence[int]:
    """The share of `rows` of one process; the shares differ by one row at most."""
    base, extra = divmod(len(rows), crew.size)
    start = crew.rank * base + min(crew.rank, extra)
    return rows[start : start + base + (crew.rank < extra)]


class RankBatches(Sampler[list[int]]):
    """One process's batches of an epoch: as many as every other process's."""

    def __init__(self, order: Sampler[int], num_rows: int, batch_size: int, crew: Crew) -> None:
        self._order = order
        self._num_rows = num_rows
        self._together = batch_size * crew.size
        self._crew = crew

    def set_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self._order, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(self._num_rows / self._together)

    def __iter__(self) -> Iterator[list[int]]:
        rows: list[int] = []
        for row in self._order:
            rows.append(row)
            if len(rows) == self._together:
                yield list(part(rows, self._crew))
                rows = []
        if rows:
            yield list(part(rows, self._crew))


@dataclass(frozen=True)
class IdleCollator:
    """Collates rows; from none it makes a batch without a token that counts.

    Attributes:
        example: Any row, whose shape the idle batch takes.
    """

    collate: Callable[[Any], Batch]
    example: Document | Block

    def __call__(self, rows: Sequence[Any]) -> Batch:
        if rows:
            return self.collate(rows)
        batch = self.collate([_without_targets(self.example)])
        return batch | {"num_tokens": 0}


def _without_targets(row: Document | Block) -> Document | Block:
    if isinstance(row, Document):
        return _untargeted(row)
    return [_untargeted(document) for document in row]


def _untargeted(document: Document) -> Document:
    return replace(document, is_target=np.zeros_like(document.is_target))


class EpochLoader(DataLoader[Any]):
    """A loader that tells its batches which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        batches = self.batch_sampler
        assert isinstance(batches, RankBatches)
        batches.set_epoch(epoch)
