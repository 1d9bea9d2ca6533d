"""Documents as flat arrays: what is written is what is read, and choices of it are no copies."""

from pathlib import Path

import numpy as np
import pytest

from training.documents import Choice, Document, Documents, DocumentWriter, read_documents


def made(length: int, *, first: int = 0) -> Document:
    ids = np.arange(first, first + length, dtype=np.int32)
    return Document(ids, ids % 2 == 1)


def written(folder: Path, *lengths: int) -> Documents:
    folder.mkdir(exist_ok=True)
    with DocumentWriter(folder) as writer:
        for number, length in enumerate(lengths):
            writer.append(made(length, first=100 * number), line=3 * number + 1)
    return read_documents(folder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    documents = written(tmp_path, 4, 1, 7)
    assert len(documents) == 3
    assert documents.lengths.tolist() == [4, 1, 7]
    assert documents.num_targets.tolist() == [2, 0, 3]
    assert documents.lines.tolist() == [1, 4, 7]
    for number, document in enumerate(documents):
        expected = made(len(document), first=100 * number)
        assert np.array_equal(document.input_ids, expected.input_ids)
        assert np.array_equal(document.is_target, expected.is_target)
        assert document.num_targets == documents.num_targets[number]
    assert [len(document) for document in documents[1:]] == [1, 7]
    with pytest.raises(IndexError):
        documents[3]


def test_no_document_at_all(tmp_path: Path) -> None:
    documents = written(tmp_path)
    assert len(documents) == 0
    assert Choice((documents,), np.zeros(0, np.int64)).num_tokens == 0


def test_a_document_is_a_view_of_the_file(tmp_path: Path) -> None:
    documents = written(tmp_path, 4, 5)
    assert np.shares_memory(documents[1].input_ids, documents.tokens)
    assert np.shares_memory(documents[1].is_target, documents.targets)
    assert not documents.tokens.flags.writeable


def test_a_writer_that_fails_leaves_nothing_that_can_be_read(tmp_path: Path) -> None:
    def fail() -> None:
        with DocumentWriter(tmp_path) as writer:
            writer.append(made(3), line=1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(OSError, match=r"ends\.npy"):
        read_documents(tmp_path)


def test_a_file_that_is_cut_short_is_seen(tmp_path: Path) -> None:
    written(tmp_path, 4, 5)
    (tmp_path / "targets.bin").write_bytes(b"\x00" * 8)
    with pytest.raises(ValueError, match=r"targets\.bin does not hold 9 values"):
        read_documents(tmp_path)


def test_a_choice_counts_through_all_files(tmp_path: Path) -> None:
    parts = written(tmp_path / "a", 4, 5), written(tmp_path / "b", 6)
    choice = Choice(parts, np.array([2, 0, 2, 1]))
    assert [len(document) for document in choice] == [6, 4, 6, 5]
    assert choice.lengths.tolist() == [6, 4, 6, 5]
    assert choice.num_tokens == 21
    assert choice.num_targets == 3 + 2 + 3 + 2
    assert [len(document) for document in choice[1:3]] == [4, 6]
    assert len(choice[-1]) == 5


def test_a_part_of_a_document_never_begins_with_a_target() -> None:
    whole = made(8)
    part = whole.part(3, 6)
    assert part.input_ids.tolist() == [3, 4, 5]
    assert part.is_target.tolist() == [False, False, True]
    assert whole.is_target[3]
    assert whole.part(0, 2).is_target.tolist() == [False, True]
