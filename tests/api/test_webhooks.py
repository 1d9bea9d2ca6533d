"""Webhooks to a real receiver: managed with OpenAI's client, signed, retried, never lost."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from api.server import Server
from jobs.artifacts.registry import open_store
from jobs.doorbell import Bell
from jobs.models import WebhookDelivery, WebhookEndpoint
from jobs.rescue import Rescue
from jobs.service import webhooks
from jobs.states import RunOutcome
from tests.api.deployment import Client, Deployment, ok, refused
from tests.api.hooks import ENDS, cancelled, deliveries, settled, subscribe, try_out
from tests.api.receiver import Received, Receiver, receiving, until
from tests.servers import free_port

DAY = 24 * 3600


@pytest.fixture
def sdk(town: Deployment, owner: Client) -> Iterator[OpenAI]:
    http = httpx.Client(verify=False)  # no TLS here
    with OpenAI(api_key=owner.secret, base_url=f"{town.origin}/v1", http_client=http) as client:
        yield client


def unwrap(sdk: OpenAI, received: Received, secret: str) -> Any:
    return sdk.webhooks.unwrap(received.body, received.headers, secret=secret)


def test_the_client_manages_endpoints(sdk: OpenAI, receiver: Receiver):
    made = sdk.webhooks.create(name="a", url=receiver.url, event_types=ENDS[:1])  # type: ignore[arg-type]
    assert made.object == "webhook_endpoint"
    assert made.signing_secret.startswith("whsec_")
    assert made.signing_secret_hint == f"whsec_…{made.signing_secret[-4:]}"
    assert made.created_at == made.updated_at
    others = [
        sdk.webhooks.create(name=name, url=receiver.url, event_types=["fine_tuning.job.failed"])
        for name in "bc"
    ]
    listed = list(sdk.webhooks.list(limit=1))
    assert [one.name for one in listed] == ["c", "b", "a"]
    assert made.signing_secret not in sdk.webhooks.list().model_dump_json()

    changed = sdk.webhooks.update(made.id, name="z", event_types=ENDS)  # type: ignore[arg-type]
    assert (changed.name, changed.url, changed.event_types) == ("z", receiver.url, ENDS)
    assert sdk.webhooks.retrieve(made.id) == changed
    assert sdk.webhooks.update(made.id, url=f"{receiver.url}/2").url == f"{receiver.url}/2"
    assert sdk.webhooks.event_types.list().data == ENDS

    rotated = sdk.webhooks.rotate_secret(made.id)
    assert rotated.signing_secret != made.signing_secret
    gone = sdk.webhooks.delete(others[0].id)
    assert (gone.id, gone.deleted, gone.object) == (others[0].id, True, "webhook_endpoint.deleted")
    assert [one.name for one in sdk.webhooks.list()] == ["c", "z"]


def test_the_client_tries_an_endpoint(sdk: OpenAI, receiver: Receiver):
    made = sdk.webhooks.create(name="a", url=receiver.url, event_types=["fine_tuning.job.failed"])
    result = sdk.webhooks.test(made.id, event_type="fine_tuning.job.succeeded")
    assert (result.object, result.status_code, result.success) == (
        "webhook_endpoint.test",
        200,
        True,
    )
    assert result.webhook_endpoint_id == made.id
    (received,) = receiver.received
    assert unwrap(sdk, received, made.signing_secret).type == "fine_tuning.job.succeeded"
    receiver.statuses = [418]
    assert sdk.webhooks.test(made.id, event_type="fine_tuning.job.failed").status_code == 418
    assert len(receiver.received) == 2


def test_every_end_of_a_job_is_told(
    town: Deployment, owner: Client, sdk: OpenAI, receiver: Receiver
):
    secret = subscribe(owner, receiver.url)["signing_secret"]
    ended = {"fine_tuning.job.cancelled": cancelled(owner)}
    for outcome in (RunOutcome.SUCCEEDED, RunOutcome.FAILED):
        ended[f"fine_tuning.job.{outcome}"] = owner.submit()["id"]
        claimed = town.begin(owner)
        if outcome == RunOutcome.SUCCEEDED:
            town.succeed(claimed)
        else:
            town.finish(claimed, outcome)
    told = {}
    for received in receiver.wait_for(3):
        event = unwrap(sdk, received, secret)
        told[event.type] = event.data.id
        job = owner.job(event.data.id)
        assert event.created_at == job["finished_at"]
        assert json.loads(received.body) == {
            "id": event.id,
            "object": "event",
            "created_at": event.created_at,
            "type": event.type,
            "data": {"id": job["id"]},
        }
        assert event.id.startswith("evt_")
    assert told == ended
    until(lambda: settled(town, owner))
    assert {one.last_status for one in deliveries(town, owner)} == {200}


def test_only_who_asks_is_told(town: Deployment, owner: Client, receiver: Receiver):
    other = town.project()
    with receiving() as elsewhere, other.http:
        subscribe(owner, receiver.url, "fine_tuning.job.succeeded")
        told = subscribe(owner, receiver.url, "fine_tuning.job.cancelled")
        subscribe(other, elsewhere.url)
        cancelled(owner)
        (received,) = receiver.wait_for(1)
        time.sleep(1.5)
        assert len(receiver.received) == 1
        assert elsewhere.received == []
    assert [one.endpoint_id for one in deliveries(town, owner)] == [told["id"]]
    assert json.loads(received.body)["type"] == "fine_tuning.job.cancelled"


def test_both_secrets_sign_while_the_old_one_is_active(
    town: Deployment, owner: Client, sdk: OpenAI, receiver: Receiver
):
    endpoint = subscribe(owner, receiver.url)
    path = f"/webhook_endpoints/{endpoint['id']}"

    def rotate(**body: bool) -> str:
        secret: str = ok(owner.http.post(f"{path}/rotate_secret", json=body))["signing_secret"]
        return secret

    def tried(*secrets: str) -> list[bool]:
        ok(owner.http.post(f"{path}/test", json={"event_type": ENDS[0]}))
        valid = []
        for secret in secrets:
            try:
                unwrap(sdk, receiver.received[-1], secret)
                valid.append(True)
            except InvalidWebhookSignatureError:
                valid.append(False)
        return valid

    first = endpoint["signing_secret"]
    second = rotate(keep_old_secret_active_for_24_hours=True)
    assert tried(first, second) == [True, True]
    with town.db.reading() as session:
        at = webhooks.now(session)
    row_id = endpoint["id"]
    town.change(WebhookEndpoint, row_id, old_secret_expires_at=at + 60)
    assert tried(first, second) == [True, True]
    town.change(WebhookEndpoint, row_id, old_secret_expires_at=at - 1)
    assert tried(first, second) == [False, True]
    third = rotate()
    assert tried(second, third) == [False, True]


def test_a_failed_delivery_is_tried_again(
    town: Deployment, owner: Client, sdk: OpenAI, receiver: Receiver
):
    secret = subscribe(owner, receiver.url)["signing_secret"]
    with receiving() as elsewhere:
        receiver.location = elsewhere.url
        receiver.statuses = [500, 302, 307]
        cancelled(owner)
        tries = receiver.wait_for(4)
        assert elsewhere.received == []
    assert len({one.headers["webhook-id"] for one in tries}) == 1
    assert len({unwrap(sdk, one, secret).id for one in tries}) == 1
    until(lambda: settled(town, owner))
    (delivery,) = deliveries(town, owner)
    assert (delivery.attempts, delivery.last_status, delivery.last_error) == (4, 200, None)
    assert delivery.delivered_at is not None


def test_the_pause_grows_until_it_is_given_up(town: Deployment, owner: Client):
    """By the verbs, so that the hours between need not be waited for."""
    subscribe(owner, f"http://127.0.0.1:{free_port()}/")
    cancelled(owner)
    settings = town.settings.model_copy(update={"webhook_pause_seconds": 5.0})
    (delivery,) = deliveries(town, owner)
    pauses = []
    parcel = webhooks.Parcel(delivery.id, "http://nowhere/", (), {})
    for attempt in range(1, 60):
        town.change(WebhookDelivery, delivery.id, attempts=attempt, next_attempt_at=9e9)
        with town.db.writing() as session:
            at = webhooks.now(session)
            one = webhooks.Parcel(parcel.delivery_id, parcel.url, (), {}, attempt=attempt)
            webhooks.settle(session, one, settings, status=503, problem="the endpoint replied 503")
        (row,) = deliveries(town, owner)
        if row.next_attempt_at is None:
            break
        pauses.append(row.next_attempt_at - at)
        shifted = row.created_at - pauses[-1]
        town.change(WebhookDelivery, delivery.id, created_at=shifted)
    assert 4 <= pauses[0] <= 6
    assert 8 <= pauses[1] <= 12
    assert max(pauses) <= 6 * 3600 * 1.2
    assert 2.5 * DAY < sum(pauses) < 3.3 * DAY
    assert (row.last_status, row.last_error) == (503, "the endpoint replied 503")
    assert row.delivered_at is None


def test_a_removed_endpoint_is_sent_nothing_more(
    town: Deployment, owner: Client, receiver: Receiver
):
    receiver.statuses = [500] * 100
    endpoint = subscribe(owner, receiver.url)
    cancelled(owner)
    receiver.wait_for(1)
    ok(owner.http.delete(f"/webhook_endpoints/{endpoint['id']}"))
    time.sleep(0.3)
    before = len(receiver.received)
    cancelled(owner)
    time.sleep(2)
    assert len(receiver.received) == before
    assert settled(town, owner)


def test_nothing_is_lost_by_a_restart(town: Deployment, owner: Client, sdk: OpenAI):
    port = free_port()
    secret = subscribe(owner, f"http://127.0.0.1:{port}/hook")["signing_secret"]
    job_id = cancelled(owner)
    until(lambda: deliveries(town, owner)[0].last_error)
    assert "no connection" in (deliveries(town, owner)[0].last_error or "")
    town.stop()
    try:
        with receiving(port=port) as receiver:
            time.sleep(1)
            assert receiver.received == []
            town.start()
            (received,) = receiver.wait_for(1)
    finally:
        if not town.server.started or town.server.should_exit:
            town.start()
    assert unwrap(sdk, received, secret).data.id == job_id


def test_a_delivery_whose_process_died_is_due_again_after_its_lease(
    town: Deployment, owner: Client, receiver: Receiver
):
    endpoint = subscribe(owner, receiver.url)
    town.stop()
    try:
        with town.db.writing() as session:
            delivery = WebhookDelivery(
                id="wh_died",
                endpoint_id=endpoint["id"],
                event_id="evt_1",
                event_type=ENDS[0],
                object_id="ftjob-1",
                created_at=webhooks.now(session),
                next_attempt_at=1.0,
            )
            session.add(delivery)
        with town.db.writing() as session:
            (parcel,) = webhooks.take(session, 10)
            assert webhooks.take(session, 10) == []
    finally:
        town.start()
    time.sleep(1.5)
    assert receiver.received == []
    town.change(WebhookDelivery, "wh_died", next_attempt_at=2.0)
    receiver.wait_for(1)
    with town.db.writing() as session:  # the one that died comes back
        webhooks.settle(session, parcel, town.settings, status=500, problem="late")
    until(lambda: settled(town, owner))
    assert deliveries(town, owner)[0].last_status == 200


def test_two_servers_deliver_each_event_once(town: Deployment, owner: Client, receiver: Receiver):
    second = Server(town.settings, port=free_port())
    thread = threading.Thread(target=second.run)
    thread.start()
    try:
        until(lambda: second.started)
        receiver.pause_seconds = 0.05
        subscribe(owner, receiver.url)
        jobs = {cancelled(owner) for _ in range(20)}
        receiver.wait_for(20)
        until(lambda: settled(town, owner))
        time.sleep(1.5)
    finally:
        second.should_exit = True
        thread.join()
    told = Counter(json.loads(one.body)["data"]["id"] for one in receiver.received)
    assert told == dict.fromkeys(jobs, 1)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"event_types": []}, "event_types"),
        ({"event_types": ["batch.completed"]}, "event_types.0"),
        ({"name": ""}, "name"),
        ({"url": "hooks"}, "url"),
        ({"url": 1}, "url"),
        ({"secret": "whsec_x"}, "secret"),
    ],
)
def test_an_unusable_endpoint_is_refused_by_name(
    owner: Client, changes: dict[str, Any], param: str
):
    body = {"name": "n", "url": "https://hooks.example.com/", "event_types": ENDS} | changes
    assert refused(owner.http.post("/webhook_endpoints", json=body), 400)["param"] == param


def test_members_keep_no_webhooks(deployment: Deployment, admin: Client, member: Client):
    endpoint = subscribe(admin, "https://hooks.example.com/")
    path = f"/webhook_endpoints/{endpoint['id']}"
    body = {"name": "n", "url": "https://hooks.example.com/", "event_types": ENDS}
    for reply in (
        member.http.post("/webhook_endpoints", json=body),
        member.http.get("/webhook_endpoints"),
        member.http.get(path),
        member.http.post(path, json={"name": "x"}),
        member.http.post(f"{path}/rotate_secret", json={}),
        try_out(member, endpoint),
        member.http.delete(path),
    ):
        assert refused(reply, 403)["code"] == "admin_required"


def test_what_ended_long_ago_is_removed(deployment: Deployment, admin: Client):
    settings = deployment.settings
    endpoint = subscribe(admin, "https://hooks.example.com/")
    cancelled(admin)
    ok(admin.http.delete(f"/webhook_endpoints/{endpoint['id']}"))
    (delivery,) = deliveries(deployment, admin)
    bell = Bell(settings)
    rescue = Rescue(deployment.db, settings, bell, open_store(settings))
    try:
        rescue.sweep()
        assert len(deliveries(deployment, admin)) == 1
        deployment.change(WebhookDelivery, delivery.id, created_at=1.0)
        deployment.change(WebhookEndpoint, endpoint["id"], deleted_at=1.0)
        rescue.sweep()
    finally:
        bell.close()
    with deployment.db.reading() as session:
        assert session.get(WebhookDelivery, delivery.id) is None
        assert session.get(WebhookEndpoint, endpoint["id"]) is None
