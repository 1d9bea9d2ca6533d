"""The order in which rows are trained on, new in every epoch.

It depends on nothing but the seed, the epoch and the rows' lengths, so that a run that goes on
from a checkpoint, and every process of a run, finds it again. `SAMPLERS` is the table to extend.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from training.documents import Choice
from training.optimization_config import SamplingStrategy

Lengths = NDArray[np.int64]
_WINDOWS_TOGETHER = 50


class EpochOrder(Sampler[int]):
    """Every row once an epoch."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[int]:
        """As the rows stand in their files."""
        yield from range(self._num_rows)


class EpochShuffle(EpochOrder):
    """A new order in every epoch."""

    def __init__(self, num_rows: int, seed: int) -> None:
        super().__init__(num_rows)
        self._seed = seed

    def __iter__(self) -> Iterator[int]:
        yield from self._shuffled().tolist()

    def _shuffled(self) -> torch.Tensor:
        return torch.randperm(self._num_rows, generator=self._generator())

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed + self._epoch)


class LengthGroups(EpochShuffle):
    """Rows of about the same length in one optimiser step; the steps in any order.

    Rows are shuffled, sorted within parts of some steps, and dealt out to steps, which are
    shuffled again. The step with the longest row comes first: if memory is too small, it is soon
    known. The last step, which may be short, stays last, or no step behind it would be whole.

    Args:
        lengths: Tokens of each row.
        seed: Of both shuffles.
        window: Rows of one optimiser step.
    """

    def __init__(self, lengths: Lengths, seed: int, window: int) -> None:
        super().__init__(len(lengths), seed)
        self._lengths = lengths
        self._window = window

    def __iter__(self) -> Iterator[int]:
        shuffled = self._shuffled().numpy()
        num_windows = self._num_rows // self._window
        whole, rest = np.split(shuffled, [num_windows * self._window])
        if not num_windows:
            yield from rest.tolist()
            return
        together = max(1, min(num_windows // 4, _WINDOWS_TOGETHER)) * self._window
        parts = [whole[start : start + together] for start in range(0, len(whole), together)]
        by_length = [part[np.argsort(-self._lengths[part], kind="stable")] for part in parts]
        windows = np.concatenate(by_length).reshape(num_windows, self._window)
        order = torch.randperm(num_windows, generator=self._generator()).numpy()
        longest = self._lengths[windows].max(axis=1)[order].argmax()
        order[[0, longest]] = order[[longest, 0]]
        yield from windows[order].reshape(-1).tolist()
        yield from rest.tolist()


def _by_length(rows: Sequence[object], seed: int, window: int) -> LengthGroups:
    assert isinstance(rows, Choice), "blocks are about equally long; refused before"
    return LengthGroups(rows.lengths, seed, window)


Order = Callable[[Sequence[object], int, int], EpochOrder]
"""From rows, a seed and the number of rows of an optimiser step to an order."""

SAMPLERS: Mapping[SamplingStrategy, Order] = MappingProxyType(
    {
        "random": lambda rows, seed, _window: EpochShuffle(len(rows), seed),
        "group_by_length": _by_length,
        "sequential": lambda rows, _seed, _window: EpochOrder(len(rows)),
    }
)
"""By the words of transformers."""
