"""Downloads and streams over a connection that keeps breaking."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.client import Client
from cli.connection import Connection
from cli.download import fetch
from cli.errors import CliError
from cli.follow import stream
from tests.cli.conftest import Deployment
from tests.cli.proxy import CuttingProxy

SIZE_BYTES = 3_000_000
Broken = Callable[..., tuple[Client, CuttingProxy]]


@pytest.fixture
def broken(served: Deployment) -> Iterator[Broken]:
    """Makes clients whose connections are cut."""
    opened: list[Client | CuttingProxy] = []

    def make(**how: int) -> tuple[Client, CuttingProxy]:
        port = urlsplit(served.url).port
        assert port is not None
        proxy = CuttingProxy(port, **how)
        client = Client(Connection(proxy.url, served.world.secret))
        opened.extend([client, proxy])
        return client, proxy

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def content(served: Deployment, tmp_path: Path) -> tuple[str, bytes]:
    """A stored file: its path on the server, and its bytes."""
    data = os.urandom(SIZE_BYTES)
    path = tmp_path / "upload.bin"
    path.write_bytes(data)
    with Client(Connection(served.url, served.world.secret)) as client:
        sent: list[int] = []
        file = client.upload(path, "user_data", sent.append)
    assert sum(sent) == SIZE_BYTES
    return f"/files/{file['id']}/content", data


def test_a_download_goes_on_where_it_was_cut(
    broken: Broken, content: tuple[str, bytes], tmp_path: Path
) -> None:
    path, data = content
    client, proxy = broken(cuts=3, after_bytes=800_000)
    remote = fetch(client, path, {}, tmp_path / "whole")
    assert proxy.cuts_left == 0
    assert (tmp_path / "whole").read_bytes() == data
    assert remote.sha256 == hashlib.sha256(data).hexdigest()
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob(".*.part"))


def test_a_part_of_other_bytes_is_found_out(
    broken: Broken, content: tuple[str, bytes], tmp_path: Path
) -> None:
    path, data = content
    client, _ = broken(cuts=0, after_bytes=0)
    part = tmp_path / f".whole.{hashlib.sha256(data).hexdigest()[:12]}.part"
    part.write_bytes(b"\0" * 1000)
    with pytest.raises(CliError, match="the bad copy is deleted, try again"):
        fetch(client, path, {}, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    fetch(client, path, {}, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == data


def test_a_stream_cut_between_events_misses_and_repeats_none(
    served: Deployment, broken: Broken
) -> None:
    world = served.world
    job = world.submit(training_file=world.file().id)
    world.cancel(job)
    whole, _ = broken(cuts=0, after_bytes=0)
    expected = [(event.id, event.type) for event in stream(whole, job.id)]
    assert expected[-1] == ("", "end")
    cut, proxy = broken(cuts=2, after_bytes=1000)
    seen = [(event.id, event.type) for event in stream(cut, job.id)]
    assert proxy.cuts_left == 0
    numbered = [event for event in seen if event[0]]
    assert numbered == [event for event in expected if event[0]]
    assert seen[-1] == ("", "end")
