"""Where webhooks may go: to whom, by which name, and for how long is waited."""

import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from api import mail
from jobs.models import WebhookEndpoint
from tests.api.deployment import Client, Deployment, ok, refused
from tests.api.hooks import ENDS, cancelled, deliveries, subscribe, try_out
from tests.api.receiver import Receiver, receiving, until
from tests.servers import free_port


def test_an_endpoint_that_cannot_be_reached(owner: Client):
    endpoint = subscribe(owner, f"http://127.0.0.1:{free_port()}/")
    error = refused(try_out(owner, endpoint), 400)
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
        assert "not public" in refused(try_out(admin, endpoint), 400)["message"]
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
        assert "CERTIFICATE_VERIFY_FAILED" in refused(try_out(owner, by_name), 400)["message"]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        town.stop()
        town.start()
        again = town.client(owner.identity.project_id, owner.pool)
        with again.http:
            assert ok(try_out(again, by_name))["status_code"] == 200
            assert (
                "CERTIFICATE_VERIFY_FAILED" in refused(try_out(again, by_address), 400)["message"]
            )
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
    assert ok(try_out(owner, subscribe(owner, url)))["status_code"] == 200
    assert asked == ["flip.example"]
    assert receiver.received[0].headers["host"] == url.split("/")[2]


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
        error = refused(try_out(owner, endpoint), 400)
        thread.join()
    assert "no reply within" in error["message"]
