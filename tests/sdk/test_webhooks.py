"""`client.webhooks`: what is sent is unwrapped by both clients; the newest keeps the endpoints."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sdk.receiver import Receiver
from tests.sdk.work import run, submit

SUCCEEDED, CANCELLED = "fine_tuning.job.succeeded", "fine_tuning.job.cancelled"
newest = pytest.mark.parametrize("version", ["newest"], indirect=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_an_end_is_told_and_its_signature_holds(
    openai: Any, client: Any, receiver: Receiver
) -> None:
    body = {"name": "ends", "url": receiver.url, "event_types": [SUCCEEDED, CANCELLED]}
    secret = client.post("/webhook_endpoints", body=body, cast_to=object)["signing_secret"]
    assert secret.startswith("whsec_")
    job = run(client, steps=1)
    headers, payload = receiver.next()
    event = client.webhooks.unwrap(payload, headers, secret=secret)
    assert (event.object, event.type, event.data.id) == ("event", SUCCEEDED, job.id)
    assert event.id.startswith("evt_")
    assert type(event).__name__ == "FineTuningJobSucceededWebhookEvent"
    assert client.with_options(webhook_secret=secret).webhooks.unwrap(payload, headers) == event
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(payload.replace(b"succeeded", b"cancelled"), headers, secret=secret)

    cancelled = client.fine_tuning.jobs.cancel(submit(client).id)
    headers, payload = receiver.next()
    event = client.webhooks.unwrap(payload, headers, secret=secret)
    assert (event.type, event.data.id) == (CANCELLED, cancelled.id)


@newest
def test_endpoints_are_kept(openai: Any, client: Any, receiver: Receiver) -> None:
    assert {SUCCEEDED, CANCELLED} <= set(client.webhooks.event_types.list().data)
    made = client.webhooks.create(name="one", url=receiver.url, event_types=[SUCCEEDED])
    assert (made.object, made.name, made.url) == ("webhook_endpoint", "one", receiver.url)
    kept = client.webhooks.retrieve(made.id)
    assert not hasattr(kept, "signing_secret")
    assert kept.signing_secret_hint.endswith(made.signing_secret[-4:])
    changed = client.webhooks.update(made.id, name="two", event_types=[CANCELLED])
    assert (changed.name, changed.url, changed.event_types) == ("two", receiver.url, [CANCELLED])
    other = client.webhooks.create(name="other", url=receiver.url, event_types=[SUCCEEDED])
    page = client.webhooks.list(limit=1)
    assert ([each.id for each in page.data], page.has_more) == ([other.id], True)
    page = client.webhooks.list(limit=1, after=page.last_id)
    assert ([each.id for each in page.data], page.has_more) == ([made.id], False)
    assert client.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)


@newest
def test_an_endpoint_is_tried(openai: Any, client: Any, receiver: Receiver) -> None:
    made = client.webhooks.create(name="one", url=receiver.url, event_types=[SUCCEEDED])
    tried = client.webhooks.test(made.id, event_type=SUCCEEDED)
    assert (tried.status_code, tried.success, tried.event_type) == (200, True, SUCCEEDED)
    headers, payload = receiver.next()
    event = client.webhooks.unwrap(payload, headers, secret=made.signing_secret)
    assert event.type == SUCCEEDED
    receiver.status = 503
    assert client.webhooks.test(made.id, event_type=CANCELLED).status_code == 503


@newest
def test_a_secret_is_changed(openai: Any, client: Any, receiver: Receiver) -> None:
    made = client.webhooks.create(name="one", url=receiver.url, event_types=[SUCCEEDED])
    second = client.webhooks.rotate_secret(
        made.id, keep_old_secret_active_for_24_hours=True
    ).signing_secret
    client.webhooks.test(made.id, event_type=SUCCEEDED)
    headers, payload = receiver.next()
    for secret in (made.signing_secret, second):
        client.webhooks.verify_signature(payload, headers, secret=secret)
    third = client.webhooks.rotate_secret(
        made.id, keep_old_secret_active_for_24_hours=False
    ).signing_secret
    client.webhooks.test(made.id, event_type=SUCCEEDED)
    headers, payload = receiver.next()
    client.webhooks.verify_signature(payload, headers, secret=third)
    for secret in (made.signing_secret, second):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.verify_signature(payload, headers, secret=secret)
