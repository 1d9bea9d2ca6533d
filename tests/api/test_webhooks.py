"""Webhooks to a real receiver: managed with OpenAI's client, signed, retried, never lost."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import select

from api import mail
from api.server import Server
from jobs.artifacts.registry import open_store
from jobs.doorbell import Bell
from jobs.models import WebhookDelivery, WebhookEndpoint
from jobs.rescue import Rescue
from jobs.service import webhooks
from jobs.states import RunOutcome
from tests.api.deployment import Client, Deployment, ok, refused, serving
from tests.api.receiver import Received, Receiver, receiving, until
from tests.jobs.world import settings_in
from tests.servers import free_port

ENDS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
DAY = 24 * 3600


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose webhooks may go to this host."""
    settings = settings_in(
        tmp_path_factory.mktemp("town"), webhook_allow_private=True, webhook_pause_seconds=0.2
    )
    with serving(settings) as made:
        yield made


@pytest.fixture
def owner(town: Deployment) -> Iterator[Client]:
    client = town.project()
    with client.http:
        yield client


@pytest.fixture
def sdk(town: Deployment, owner: Client) -> Iterator[OpenAI]:
    http = httpx.Client(verify=False)  # no TLS here
    with OpenAI(api_key=owner.secret, base_url=f"{town.origin}/v1", http_client=http) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def subscribe(client: Client, url: str, *types: str) -> dict[str, Any]:
    body = {"name": "hook", "url": url, "event_types": list(types or ENDS)}
    return ok(client.http.post("/webhook_endpoints", json=body))


def cancelled(client: Client) -> str:
    job_id: str = client.submit()["id"]
    ok(client.http.post(f"/fine_tuning/jobs/{job_id}/cancel"))
    return job_id


def deliveries(world: Deployment, client: Client) -> list[WebhookDelivery]:
    query = (
        select(WebhookDelivery)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookEndpoint.project_id == client.identity.project_id)
    )
    with world.db.reading() as session:
        return list(session.scalars(query.order_by(WebhookDelivery.created_at)))


def settled(world: Deployment, client: Client) -> bool:
    return all(one.next_attempt_at is None for one in deliveries(world, client))


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


def test_a_reply_that_drips_is_not_waited_for(
    owner: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """Each byte comes in time; all of them together do not."""
    monkeypatch.setattr(mail, "_TIMEOUT_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"y" * 30:
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return
                    time.sleep(0.1)

        thread = threading.Thread(target=drip)
        thread.start()
        endpoint = subscribe(owner, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        error = refused(_test(owner, endpoint), 400)
        thread.join()
    assert "no reply within" in error["message"]


def _test(client: Client, endpoint: dict[str, Any]) -> httpx.Response:
    path = f"/webhook_endpoints/{endpoint['id']}/test"
    return client.http.post(path, json={"event_type": ENDS[0]})


def test_an_endpoint_that_cannot_be_reached(owner: Client):
    endpoint = subscribe(owner, f"http://127.0.0.1:{free_port()}/")
    error = refused(_test(owner, endpoint), 400)
    assert error["code"] == "webhook_endpoint_unreachable"
    assert "no connection to 127.0.0.1" in error["message"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "0x7f.1"])
def test_a_private_address_is_refused_when_it_is_given_and_when_it_is_sent_to(
    deployment: Deployment, admin: Client, host: str
):
    """The second server is of the default settings, and the row was made another way."""
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", host).replace("http:", "https:")
        body = {"name": "n", "url": url, "event_types": ENDS}
        error = refused(admin.http.post("/webhook_endpoints", json=body), 400)
        assert error["param"] == "url"
        endpoint = subscribe(admin, "https://hooks.example.com/")
        path = f"/webhook_endpoints/{endpoint['id']}"
        refused(admin.http.post(path, json={"url": url}), 400)
        deployment.change(WebhookEndpoint, endpoint["id"], url=url)
        assert "not public" in refused(_test(admin, endpoint), 400)["message"]
        cancelled(admin)
        until(lambda: [one for one in deliveries(deployment, admin) if one.last_error])
        assert receiver.received == []


@pytest.mark.slow  # needs the openssl program
def test_a_certificate_is_checked_against_the_name(
    town: Deployment, owner: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The request goes to an address, and the certificate names the host."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with receiving(tls=context) as receiver:
        by_name = subscribe(owner, receiver.url.replace("127.0.0.1", "localhost"))
        by_address = subscribe(owner, receiver.url)
        assert "CERTIFICATE_VERIFY_FAILED" in refused(_test(owner, by_name), 400)["message"]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        town.stop()
        town.start()
        again = town.client(owner.identity.project_id, owner.pool)
        with again.http:
            assert ok(_test(again, by_name))["status_code"] == 200
            assert "CERTIFICATE_VERIFY_FAILED" in refused(_test(again, by_address), 400)["message"]
    assert [one.headers["host"] for one in receiver.received] == [
        receiver.url.split("/")[2].replace("127.0.0.1", "localhost")
    ]


def test_a_name_is_resolved_once_for_a_request(
    owner: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """No name server of ours answers differently each time: the resolver is replaced by one."""
    asked = []
    resolve = socket.getaddrinfo

    def flipping(host: str, *rest: Any, **options: Any) -> Any:
        if host != "flip.example":
            return resolve(host, *rest, **options)
        asked.append(host)
        return resolve("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", flipping)
    url = receiver.url.replace("127.0.0.1", "flip.example")
    assert ok(_test(owner, subscribe(owner, url)))["status_code"] == 200
    assert asked == ["flip.example"]
    assert receiver.received[0].headers["host"] == url.split("/")[2]


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
        _test(member, endpoint),
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
