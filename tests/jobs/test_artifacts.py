"""What every artifact store keeps to: one suite over the table of stores."""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.artifacts.base import ArtifactStore, Stored
from jobs.artifacts.registry import STORES, open_store
from tests.jobs.world import settings_in

KEY = "jobs/j/attempt-1/adapter.zip"


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    url = {"file": f"file://{tmp_path / 'store'}"}[request.param]
    return open_store(settings_in(tmp_path, artifacts_url=url))


def _put(store: ArtifactStore, key: str, *chunks: bytes) -> Stored:
    with store.create(key) as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.commit()


def _content(store: ArtifactStore, key: str) -> bytes:
    with store.open(key) as file:
        return file.read()


def test_what_is_written_is_read(store: ArtifactStore):
    stored = _put(store, KEY, b"one", b"", b"two")
    assert stored == Stored(KEY, 6, hashlib.sha256(b"onetwo").hexdigest())
    with store.open(KEY) as file:
        file.seek(3)
        assert file.read() == b"two"
    local = store.local_path(KEY)
    assert local is None or local.read_bytes() == b"onetwo"


def test_an_empty_file_is_a_file(store: ArtifactStore):
    assert _put(store, KEY).bytes == 0
    assert _content(store, KEY) == b""


def test_nothing_appears_before_the_commit(store: ArtifactStore):
    with store.create(KEY) as writer:
        writer.write(b"half")
        with pytest.raises(FileNotFoundError):
            store.open(KEY)
        assert list(store.keys("jobs/")) == []
        writer.commit()
        assert _content(store, KEY) == b"half"


def test_leaving_without_commit_discards(store: ArtifactStore, tmp_path: Path):
    with store.create(KEY) as writer:
        writer.write(b"half")
    with suppress(KeyError), store.create(KEY) as writer:
        writer.write(b"half")
        raise KeyError
    assert list(store.keys("jobs/")) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_reader_keeps_what_it_opened(store: ArtifactStore):
    _put(store, KEY, b"old")
    with store.open(KEY) as reader:
        _put(store, KEY, b"new")
        assert reader.read() in {b"old", b"new"}
    assert _content(store, KEY) == b"new"
    with store.open(KEY) as reader:
        store.delete(KEY)
        assert reader.read() == b"new"


def test_keys_below_a_prefix(store: ArtifactStore):
    for key in ("a/b/two", "a/b/one", "a/bc/three", "a/four"):
        _put(store, key, b"x")
    assert sorted(store.keys("a/b/")) == ["a/b/one", "a/b/two"]
    assert len(list(store.keys("a/"))) == 4
    assert list(store.keys("none/")) == []


def test_deletion_leaves_no_trace_and_may_be_repeated(store: ArtifactStore, tmp_path: Path):
    _put(store, KEY, b"x")
    _put(store, "jobs/k/other", b"x")
    store.delete(KEY)
    store.delete(KEY)
    store.delete("never/was")
    assert list(store.keys("jobs/")) == ["jobs/k/other"]
    with pytest.raises(FileNotFoundError):
        store.open(KEY)
    assert not list(tmp_path.rglob("attempt-1"))


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a//b", "../up", "a/../b", "a/.", "a\0b", "a/"])
def test_a_key_is_plain_names(store: ArtifactStore, key: str):
    with pytest.raises(AssertionError), store.create(key):
        pass
    with pytest.raises(AssertionError):
        store.open(key)
    with pytest.raises(AssertionError):
        store.delete(key)


def test_leftovers_of_dead_writers_go_and_living_ones_stay(store: ArtifactStore, tmp_path: Path):
    dead = store.create("a/dead")
    dead.__enter__().write(b"x")
    old = time.time() - 100
    for path in tmp_path.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))
    with store.create("a/alive") as alive:
        alive.write(b"y")
        store.remove_leftovers(50)
        alive.commit()
    assert _content(store, "a/alive") == b"y"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    assert list(store.keys("a/")) == ["a/alive"]


def test_committing_where_others_delete(store: ArtifactStore):
    """Folders are removed with their last file while others are about to write into them."""

    def work(number: int) -> None:
        for turn in range(150):
            key = f"deep/er/and/er/{number}-{turn}"
            _put(store, key, b"x")
            store.delete(key)

    _together(work, 4)
    assert list(store.keys("deep/")) == []


def test_listing_where_others_delete(store: ArtifactStore):
    """Two sweeps may clean the same folder."""

    def work(number: int) -> None:
        for turn in range(60):
            for name in ("one", "two"):
                _put(store, f"list/{number}-{turn}/sub/{name}", b"x")
            for key in list(store.keys("list/")):
                store.delete(key)

    _together(work, 4)
    assert list(store.keys("list/")) == []


def _together(work: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
