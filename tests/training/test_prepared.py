"""Prepared data is made once, found again whole, made anew when damaged, and given up by age."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.training.runs import events, prepare, train
from training.data_counts import TOO_LONG, DataCounts
from training.documents import Document, DocumentWriter
from training.events import Message
from training.prepared import Prepared, Shelf
from training.run_directory import RunDirectory

Make = Callable[[DocumentWriter], DataCounts]


def never(writer: DocumentWriter) -> DataCounts:
    raise AssertionError("it is there already")


def of(token: int, length: int = 5) -> Make:
    def make(writer: DocumentWriter) -> DataCounts:
        ids = np.full(length, token, dtype=np.int32)
        writer.append(Document(ids, np.arange(length) > 0), line=3)
        counts = DataCounts(rows_read=2)
        counts.drop(TOO_LONG, 4, "9 tokens, 8 allowed")
        return counts

    return make


def token_of(prepared: Prepared) -> int:
    return int(prepared.documents[0].input_ids[0])


def test_what_was_made_is_found_with_its_counts(tmp_path: Path) -> None:
    made = Shelf(tmp_path).obtain("a", of(7))
    found = Shelf(tmp_path).obtain("a", never)
    assert (made.was_found, found.was_found) == (False, True)
    assert token_of(found) == 7
    assert found.documents.lines.tolist() == [3]
    assert found.counts == made.counts
    assert found.counts.first_lines == {TOO_LONG: "line 4: 9 tokens, 8 allowed"}
    assert token_of(Shelf(tmp_path).obtain("b", of(8))) == 8


@pytest.mark.parametrize("name", ["tokens.bin", "targets.bin", "ends.npy", "counts.json"])
@pytest.mark.parametrize("damage", ["changed", "missing", "cut"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    shelf = Shelf(tmp_path)
    shelf.obtain("a", of(7))
    file = tmp_path / "a" / name
    content = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(content[:-1])
        case _:
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = shelf.obtain("a", of(9))
    assert not again.was_found
    assert token_of(again) == 9
    assert token_of(shelf.obtain("a", never)) == 9


def test_a_preparation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Shelf(tmp_path).obtain("a", never)
    assert list(tmp_path.iterdir()) == []


def test_two_that_prepare_the_same_at_once_both_go_on(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    inner = []

    def late(writer: DocumentWriter) -> DataCounts:
        inner.append(shelf.obtain("a", of(7)))
        return of(7)(writer)

    outer = shelf.obtain("a", late)
    assert token_of(outer) == token_of(inner[0]) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert shelf.obtain("a", never).was_found


def test_what_was_not_used_for_the_longest_time_goes_first(tmp_path: Path) -> None:
    length = 100_000  # half a megabyte each
    shelf = Shelf(tmp_path, max_bytes=1_200_000)
    for age, name in enumerate(("new", "used", "old")):
        shelf.obtain(name, of(1, length))
        long_ago = time.time() - 1000 * (age + 1)
        os.utime(tmp_path / name / "manifest.json", (long_ago, long_ago))
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}
    shelf.obtain("old", never)
    in_use = shelf.obtain("new", never)
    shelf.obtain("old", never)
    shelf.obtain("newest", of(2, length))
    assert {path.name for path in tmp_path.iterdir()} == {"old", "newest"}
    assert token_of(in_use) == 1


def test_what_alone_is_over_the_limit_stays_until_the_next(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, max_bytes=1000)
    shelf.obtain("a", of(1, 10_000))
    assert shelf.obtain("a", never).was_found
    shelf.obtain("b", of(1, 10_000))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_a_dead_process_left_goes_after_a_day(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name, age in (("young", 3600), ("old", 25 * 3600)):
        folder = tmp_path / f".{name}.0.tmp"
        folder.mkdir()
        (folder / "tokens.bin").write_bytes(b"1234")
        for path in (folder / "tokens.bin", folder):
            os.utime(path, (time.time() - age, time.time() - age))
    shelf.obtain("a", of(1))
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".young.0.tmp"}


def preparation(directory: RunDirectory) -> list[int]:
    """How many files each attempt found prepared."""
    return [
        event.data["files_found_prepared"]
        for event in events(directory)
        if isinstance(event, Message) and "files_found_prepared" in event.data
    ]


def test_an_attempt_finds_what_the_one_before_prepared(tmp_path: Path, tiny_model: Path) -> None:
    directory = prepare(tmp_path, tiny_model, {"optimization": {"max_steps": 1}})
    for _ in range(2):
        assert train(directory).outcome == "succeeded"
    assert preparation(directory) == [0, 1]
    told = [each.message for each in events(directory) if isinstance(each, Message)]
    assert any(line.startswith("The data was prepared: 1 file in ") for line in told)
    assert any(line.startswith("The data was found prepared: 1 of 1 file, in ") for line in told)


def test_a_second_run_finds_what_another_prepared(tmp_path: Path, tiny_model: Path) -> None:
    shared = {"path": str(tmp_path / "shared"), "max_bytes": 10**9}
    once = {"optimization": {"max_steps": 1}}
    first = prepare(tmp_path / "a", tiny_model, once, prepared=shared)
    second = prepare(tmp_path / "b", tiny_model, once, prepared=shared, seed=8)
    alone = prepare(tmp_path / "c", tiny_model, once, seed=8)
    for directory in (first, second, alone):
        assert train(directory).outcome == "succeeded"
    assert preparation(first) + preparation(second) + preparation(alone) == [0, 1, 0]
    assert not second.documents.exists()
    files = [directory.result / "adapter_model.safetensors" for directory in (second, alone)]
    assert files[0].read_bytes() == files[1].read_bytes()
