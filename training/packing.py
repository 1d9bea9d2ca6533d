"""Several documents in one block; `training.isolation` proves that a model keeps them apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from training.documents import Document

Block = list[Document]


@dataclass(frozen=True, eq=False)
class Blocks(Sequence[Block]):
    """Documents in blocks; M blocks of K documents in all.

    Attributes:
        order: [K] which document comes next.
        ends: [M] where each block ends in `order`.
    """

    documents: Sequence[Document]
    order: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self.ends[index - 1] if index else 0
        return [self.documents[i] for i in self.order[start : self.ends[index]].tolist()]

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))


def pack(
    lengths: NDArray[np.int64], block_size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best-fit decreasing over the whole set: few blocks of at most `block_size` tokens.

    The longest documents come first, each into the fullest block that still holds it. The seed
    decides which of equally long documents comes first, and the order of the blocks; nothing else
    does.

    Returns:
        `order` and `ends` of `Blocks`.
    """
    assert lengths.max(initial=0) <= block_size, "a document is longer than a block"
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(lengths))
    by_length = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    block_of = _best_fit(lengths[by_length].tolist(), block_size)
    num_blocks = int(block_of.max(initial=-1)) + 1
    rank = rng.permutation(num_blocks)[block_of]
    order = by_length[np.argsort(rank, kind="stable")]
    return order, np.cumsum(np.bincount(rank, minlength=num_blocks))


def _best_fit(lengths: list[int], block_size: int) -> NDArray[np.int64]:
    """The block of every document, of lengths that only fall.

    Blocks wait under the space they have left; the bits of one integer tell which spaces there
    are, so that the smallest that is large enough is found in one step.
    """
    with_space: list[list[int]] = [[] for _ in range(block_size + 1)]
    spaces = 0
    num_blocks = 0
    block_of = []
    for length in lengths:
        if fitting := spaces >> length:
            space = length + (fitting & -fitting).bit_length() - 1
            waiting = with_space[space]
            block = waiting.pop()
            if not waiting:
                spaces ^= 1 << space
        else:
            space, block = block_size, num_blocks
            num_blocks += 1
        block_of.append(block)
        if left := space - length:
            with_space[left].append(block)
            spaces |= 1 << left
    return np.asarray(block_of, dtype=np.int64)
