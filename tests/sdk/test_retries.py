"""What the client repeats by itself when a reply is lost makes no second job."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.proxy import CuttingProxy
from tests.sdk.service import Service, Team
from tests.sdk.work import WAITING, upload


@contextmanager
def losing_replies(openai: Any, service: Service, team: Team, num: int) -> Iterator[Any]:
    """A client whose next `num` replies are lost on their way."""
    port = urlsplit(service.url).port
    assert port is not None
    proxy = CuttingProxy(port, cuts=num, after_bytes=0)
    try:
        with openai.OpenAI(api_key=team.secret, base_url=f"{proxy.url}/v1") as client:
            yield client
        assert proxy.cuts_left == 0
    finally:
        proxy.close()


def _body(client: Any) -> dict[str, Any]:
    return {"model": "tiny", "training_file": upload(client).id, "extra_body": WAITING}


@pytest.mark.parametrize("num_lost", [1, 2])
def test_a_lost_reply_makes_one_job(
    openai: Any, service: Service, team: Team, client: Any, num_lost: int
) -> None:
    body = _body(client)
    with losing_replies(openai, service, team, num_lost) as unlucky:
        raw = unlucky.fine_tuning.jobs.with_raw_response.create(**body)
    assert raw.retries_taken == num_lost
    assert raw.headers["idempotent-replayed"] == "true"
    assert [job.id for job in client.fine_tuning.jobs.list()] == [raw.parse().id]


def test_who_asks_twice_gets_two_jobs(client: Any) -> None:
    body = _body(client)
    first, second = (client.fine_tuning.jobs.create(**body) for _ in range(2))
    assert first.id != second.id


def test_an_idempotency_key_makes_one_job(openai: Any, client: Any) -> None:
    body = _body(client)
    key = {"Idempotency-Key": "nightly-7"}
    first = client.fine_tuning.jobs.create(**body, extra_headers=key)
    raw = client.fine_tuning.jobs.with_raw_response.create(**body, extra_headers=key)
    assert raw.headers["idempotent-replayed"] == "true"
    assert raw.parse().id == first.id
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.fine_tuning.jobs.create(**body, seed=1, extra_headers=key)
    assert caught.value.code == "idempotency_key_reused"
    assert [job.id for job in client.fine_tuning.jobs.list()] == [first.id]
