"""The documents of a data set as flat arrays on disk, so that memory does not grow with its rows.

    tokens.bin     int32  [S]      token ids of all documents, one after another
    targets.bin    uint8  [S]      1 where a token takes loss
    ends.npy       int64  [N]      where each document ends in those
    targeted.npy   int32  [N]      how many of its tokens take loss
    lines.npy      int64  [N]      the line of its file, from 1

Shapes: T tokens of one document, S tokens of all, N documents, K documents of a choice.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

_TOKENS, _TARGETS = "tokens.bin", "targets.bin"
_ENDS, _TARGETED, _LINES = "ends.npy", "targeted.npy", "lines.npy"
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, eq=False, slots=True)
class Document:
    """One row as the model reads it.

    Attributes:
        input_ids: [T] token ids.
        is_target: [T] whether a token takes loss; never the first, which nothing predicts.
    """

    input_ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return int(np.count_nonzero(self.is_target))

    def part(self, start: int, end: int) -> "Document":
        """Tokens `start` to `end`; no beginning or end of sequence is invented."""
        is_target = self.is_target[start:end]
        if start and is_target[:1].any():
            is_target = is_target.copy()
            is_target[0] = False
        return Document(self.input_ids[start:end], is_target)


@dataclass(frozen=True, eq=False)
class Documents(Sequence[Document]):
    """All documents of one data file; each is a view, read from disk when it is looked at.

    Attributes:
        lengths: [N] tokens of each.
        num_targets: [N] tokens of each that take loss.
        lines: [N] where each stood in its file.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.bool_]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    num_targets: NDArray[np.int32]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | Sequence[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = int(self.starts[index])
        place = slice(start, start + int(self.lengths[index]))
        return Document(self.tokens[place], self.targets[place])


class DocumentWriter:
    """Writes documents into a folder as they come, holding no more than a buffer of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens = (folder / _TOKENS).open("wb", buffering=_BUFFER_BYTES)
        self._targets = (folder / _TARGETS).open("wb", buffering=_BUFFER_BYTES)
        self._ends, self._targeted, self._lines = array("q"), array("i"), array("q")
        self._num_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        self._targets.close()
        if kind is not None:
            return
        for name, values in (
            (_ENDS, self._ends),
            (_TARGETED, self._targeted),
            (_LINES, self._lines),
        ):
            np.save(self._folder / name, np.asarray(values), allow_pickle=False)

    def append(self, document: Document, line: int) -> None:
        self._tokens.write(np.ascontiguousarray(document.input_ids, dtype=np.int32).data)
        self._targets.write(np.ascontiguousarray(document.is_target, dtype=np.bool_).data)
        self._num_tokens += len(document)
        self._ends.append(self._num_tokens)
        self._targeted.append(document.num_targets)
        self._lines.append(line)


def read_documents(folder: Path) -> Documents:
    """The documents that a `DocumentWriter` left in `folder`, without reading their tokens.

    Raises:
        OSError: A file is missing.
        ValueError: The files do not belong together.
    """
    ends = _load(folder / _ENDS)
    num_tokens = int(ends[-1]) if len(ends) else 0
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
    return Documents(
        tokens=_mapped(folder / _TOKENS, np.dtype(np.int32), num_tokens),
        targets=_mapped(folder / _TARGETS, np.dtype(np.bool_), num_tokens),
        starts=starts,
        lengths=ends - starts,
        num_targets=_load(folder / _TARGETED),
        lines=_load(folder / _LINES),
    )


def _load(path: Path) -> NDArray[Any]:
    values: NDArray[Any] = np.load(path, allow_pickle=False)
    return values


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if path.stat().st_size != count * dtype.itemsize:
        raise ValueError(f"{path.name} does not hold {count} values")
    if not count:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


@dataclass(frozen=True, eq=False)
class Choice(Sequence[Document]):
    """Some documents of several files, in an order, each as often as it is named.

    Attributes:
        parts: The files.
        places: [K] which documents, counted through all files.
    """

    parts: tuple[Documents, ...]
    places: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[K] tokens of each."""
        return _all(part.lengths for part in self.parts)[self.places]

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_targets(self) -> int:
        return int(_all(part.num_targets for part in self.parts)[self.places].sum())

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> "Choice": ...
    def __getitem__(self, index: int | slice) -> "Document | Choice":
        if isinstance(index, slice):
            return Choice(self.parts, self.places[index])
        place = int(self.places[index])
        for part in self.parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Document]:
        return (self[i] for i in range(len(self)))


def _all(arrays: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *arrays])
