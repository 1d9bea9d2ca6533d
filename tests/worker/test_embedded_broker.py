"""The transport over a folder: whole messages only, one a queue, and nothing can kill it."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection, Consumer, Queue

from jobs.doorbell import Bell
from jobs.queue import make_celery_app, queue_name
from jobs.settings import Settings

MALFORMED = [
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"7",
    b"null",
    b"{}",
    b'{"properties": null}',
    b'{"properties": {}}',
    b'{"body": "e30=", "properties": {"delivery_tag": {}, "delivery_info": {}}, "headers": {}}',
    b'{"body": 5, "properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": {}}',
    b'{"body": "e30=", "properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": 3}',
    b'{"body": "*", "properties": {"delivery_tag": "t", "delivery_info": 1}, "headers": {}}',
    b"[" * 100_000,
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with make_celery_app(settings).connection_for_read() as made:
        made.connect()
        yield made


def received(connection: Connection, pool: str = "default") -> list[dict[str, object]]:
    """What can be had within a moment."""
    messages: list[dict[str, object]] = []

    def keep(_body: object, message: object) -> None:
        messages.append(message.headers)
        message.ack()

    with Consumer(connection, [Queue(queue_name(pool))], callbacks=[keep], accept=["json"]):
        try:
            while True:
                connection.drain_events(timeout=0.2)
        except TimeoutError:
            return messages


def test_rings_coalesce_and_reach_their_pool(settings: Settings, connection: Connection) -> None:
    bell = Bell(settings)
    for _ in range(50):
        bell.ring("default")
    bell.ring("other")
    bell.close()
    heard = received(connection)
    assert [message["task"] for message in heard] == ["worker.tasks.wake"]
    assert heard[0]["expires"] is not None
    assert len(received(connection, "other")) == 1
    assert received(connection) == []


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_file_is_thrown_away(
    settings: Settings, connection: Connection, content: bytes
) -> None:
    file = settings.broker_folder / f"{queue_name('default')}.msg"
    file.write_bytes(content)
    assert received(connection) == []
    assert not file.exists()
    bell = Bell(settings)
    bell.ring("default")
    bell.close()
    assert len(received(connection)) == 1


def test_writers_and_readers_never_see_half_a_message(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Large messages under two readers: each one read is whole, and none is left."""
    app = make_celery_app(settings)
    queue = queue_name("default")
    done = threading.Event()
    read: list[int] = []

    def consume() -> None:
        with app.connection_for_read() as own:
            channel = own.channel()
            while not done.is_set() or channel.queue_declare(queue).message_count:
                if (message := channel.basic_get(queue, no_ack=True)) is not None:
                    read.append(len(message.payload["text"]))

    readers = [threading.Thread(target=consume) for _ in range(2)]
    for reader in readers:
        reader.start()
    with app.connection_for_write() as own:
        producer = own.Producer(serializer="json")
        for _ in range(300):
            producer.publish({"text": "x" * 50_000}, routing_key=queue)
    done.set()
    for reader in readers:
        reader.join()
    assert read
    assert set(read) == {50_000}
    assert "malformed" not in caplog.text
    assert [path for path in settings.broker_folder.iterdir() if "msg" in path.name] == []


def test_leftovers_of_killed_processes_are_removed(settings: Settings) -> None:
    import os

    settings.broker_folder.mkdir(parents=True)
    old, young = settings.broker_folder / ".old", settings.broker_folder / ".young"
    for path in (old, young):
        path.write_text(json.dumps({}))
    os.utime(old, (0, 0))
    with make_celery_app(settings).connection_for_read() as connection:
        connection.connect()
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "black hole"])
def test_a_bell_gives_up_on_a_broker_that_is_away(
    tmp_path: Path, *, silent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    import time

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        port = server.getsockname()[1]
        if not silent:
            server.close()
        bell = Bell(Settings(data_dir=tmp_path, broker_url=f"redis://127.0.0.1:{port}/0"))
        began = time.monotonic()
        bell.ring("default")
        assert time.monotonic() - began < 0.1
        while "no bell for pool default" not in caplog.text:
            assert time.monotonic() - began < 10
            time.sleep(0.05)
        assert time.monotonic() - began < 4
        bell.close()
