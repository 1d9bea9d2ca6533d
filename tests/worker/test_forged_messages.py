"""What anybody may put into a queue: no message ends a worker or keeps it from the next bell."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from jobs.bells import WAKE, bell_in
from jobs.queue import queue_name
from tests.servers import RedisServer
from tests.worker.deployment import Deployment

QUEUE = queue_name("default")
LATER = "2999-01-01T00:00:00+00:00"
# Nobody looks for work by themselves within a test: only a bell can say that there is some.
DEAF_BUT_FOR_BELLS = {"poll_seconds": 600, "sweep_seconds": 600}
PICKLE = b"cos\nsystem\n(S'exit 1'\ntR."


def encoded(body: object) -> str:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return base64.b64encode(content).decode()


def message(
    headers: dict[str, object] | list[str] | None = None,
    *,
    body: object = ([], {}, {}),
    kind: str = "json",
    **changes: object,
) -> bytes:
    """A message of Celery's protocol 2, a good bell but for what is given."""
    bell = {"task": WAKE, "id": "1", "lang": "py", "expires": LATER}
    whole: dict[str, object] = {
        "body": encoded(body),
        "content-type": f"application/{kind}",
        "content-encoding": "utf-8",
        "headers": headers if isinstance(headers, list) else bell | (headers or {}),
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "1",
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
        },
    }
    return json.dumps(whole | changes).encode()


NO_BELLS = {
    "bytes": b"\xff\xfe\x00",
    "half": b"{",
    "list": b"[1, 2]",
    "number": b"7",
    "deep": b"[" * 100_000,
    "typed value": b'{"headers": {"__type__": [], "__value__": 1}}',
    "empty": b"{}",
    "headers list": message([]),
    "other task": message({"task": "os.system"}),
    "no id, and unknown": json.dumps({"headers": {"task": "nope"}, "properties": {}}).encode(),
    "huge date": message({"expires": "99999-01-01T00:00:00+00:00"}),
    "task list": message({"task": [WAKE]}),
    "expires never": message({"expires": "never"}),
    "expires without zone": message({"expires": "2999-01-01T00:00:00"}),
    "expires number": message({"expires": 5}),
    "protocol 1": message([], body={"task": WAKE, "id": "1", "args": [], "kwargs": {}}),
}
ODD_BELLS = {
    "pickle": message(kind="x-python-serialize", body=PICKLE),
    "body number": message(body=5),
    "body short": message(body=[1]),
    "body not base64": message().replace(b'"body": "', b'"body": "*'),
    "arguments": message(body=[[1, 2], {"a": 1}, {}]),
    "chain": message(body=[[], {}, {"chain": [5], "errbacks": 5, "callbacks": [{"task": "x"}]}]),
    "eta": message({"eta": 5}),
    "eta far": message({"eta": "9999-12-31T23:59:59+00:00"}),
    "limits": message({"timelimit": 5, "retries": "x", "shadow": 3, "group": []}),
    "id": message({"id": {}}),
    "tag": message(properties={"delivery_tag": {}, "delivery_info": 3}),
    "no properties": message(properties=None),
}


@pytest.mark.parametrize("content", ODD_BELLS.values(), ids=ODD_BELLS)
def test_a_bell_is_made_anew(content: bytes) -> None:
    bell = bell_in(json.loads(content), QUEUE)
    assert bell is not None
    assert json.loads(base64.b64decode(bell["body"])) == [[], {}, {}]
    assert bell["content-type"] == "application/json"
    assert bell["headers"].keys() == {"lang", "task", "id", "expires"}
    assert bell["headers"]["expires"] == LATER
    assert bell["headers"]["id"] != "1"


def put_all(
    deployment: Deployment, put: Callable[[bytes], None], taken: Callable[[], bool]
) -> None:
    """Start a worker, hand it every message, and see that it hears the next bell."""
    worker = deployment.start_worker()
    deployment.wait_until(lambda: "ready." in deployment.worker_log(), 20)
    for number, content in enumerate(NO_BELLS.values(), start=1):
        put(content)
        deployment.wait_until(lambda n=number: deployment.worker_log().count("threw") >= n, 5)
    for content in ODD_BELLS.values():
        put(content)
        deployment.wait_until(taken, 5)
    deployment.add_model(deployment.settings.data_dir / "model", seconds=10)
    assert worker.poll() is None
    assert deployment.worker_log().count("threw away") == len(NO_BELLS)
    assert "ERROR" not in deployment.worker_log()
    worker.terminate()
    assert worker.wait(20) == 0


@pytest.mark.redis
def test_on_redis(tmp_path: Path, redis: RedisServer) -> None:
    deployment = Deployment(tmp_path, broker_url=redis.url, **DEAF_BUT_FOR_BELLS)
    client = Redis.from_url(redis.url)
    try:
        put_all(
            deployment,
            lambda content: client.lpush(QUEUE, content),
            lambda: not client.llen(QUEUE) and not client.hlen("unacked"),
        )
    finally:
        client.close()
        deployment.close()


def test_in_the_folder_of_one_machine(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, **DEAF_BUT_FOR_BELLS)
    file = deployment.settings.broker_folder / f"{QUEUE}.msg"
    try:
        put_all(deployment, lambda content: write(file, content), lambda: not file.exists())
    finally:
        deployment.close()


def write(file: Path, content: bytes) -> None:
    temporary = file.with_name("forged")
    temporary.write_bytes(content)
    temporary.replace(file)


@pytest.mark.redis
def test_a_redis_that_refuses(tmp_path: Path, redis: RedisServer) -> None:
    """A key of another type, where the queue is: bells and worker live through it."""
    deployment = Deployment(tmp_path, broker_url=redis.url, **DEAF_BUT_FOR_BELLS)
    client = Redis.from_url(redis.url)
    try:
        worker = deployment.start_worker()
        deployment.wait_until(lambda: "ready." in deployment.worker_log(), 20)
        client.set(QUEUE, "no list")
        deployment.bell.ring("default")
        deployment.wait_until(lambda: "ResponseError" in deployment.worker_log(), 10)
        client.delete(QUEUE)
        deployment.add_model(tmp_path / "model", seconds=10)
        assert worker.poll() is None
    finally:
        client.close()
        deployment.close()
