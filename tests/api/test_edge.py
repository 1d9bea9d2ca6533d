"""What every reply carries and every request passes, and the pages that need no key."""

import re
from html.parser import HTMLParser

import httpx
import pytest

from api.app import create_app
from tests.api.deployment import Client, Deployment, ok, refused

_DOCUMENT = create_app().openapi()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil:80", "[::2]", "@"]
)
def test_hosts_that_are_not_ours(admin: Client, host: str) -> None:
    error = refused(admin.http.get("/files", headers={"Host": host}), 421)
    assert error["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8642", "127.0.0.1:1", "[::1]:8642"])
def test_hosts_that_are_ours(admin: Client, host: str) -> None:
    assert admin.http.get("/files", headers={"Host": host}).status_code == 200


def test_probes_answer_under_any_name(deployment: Deployment) -> None:
    for path, body in (("/healthz", {"status": "ok"}), ("/readyz", {"status": "ready"})):
        assert ok(httpx.get(f"{deployment.origin}{path}", headers={"Host": "10.0.0.7"})) == body


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "x"])
def test_writes_from_other_pages(admin: Client, origin: str) -> None:
    reply = admin.http.post("/fine_tuning/jobs", json={}, headers={"Origin": origin})
    assert refused(reply, 403)["code"] == "origin_not_allowed"
    assert admin.http.get("/files", headers={"Origin": origin}).status_code == 200


def test_writes_from_our_own_page(deployment: Deployment, admin: Client) -> None:
    headers = {"Origin": deployment.origin}
    refused(admin.http.post("/fine_tuning/jobs", json={}, headers=headers), 400)


def test_headers_of_every_reply(deployment: Deployment, admin: Client) -> None:
    for reply in (
        admin.http.get("/files"),
        admin.http.get("/nowhere"),
        httpx.get(f"{deployment.origin}/healthz"),
        httpx.get(f"{deployment.origin}/v1/files", headers={"Host": "evil.example"}),
    ):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers
    assert admin.http.get("/files").headers["cache-control"] == "no-store"


def test_request_ids_differ(admin: Client) -> None:
    ids = {admin.http.get("/files").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"iframe", "base"}
        self.found += [value for name, value in attrs if name in {"src", "href"} and value]


def test_the_page_of_the_docs_needs_no_network(deployment: Deployment) -> None:
    page = httpx.get(f"{deployment.origin}/docs")
    policy = page.headers["content-security-policy"]
    assert not re.search(r"https?://", page.text + policy)
    assets = _Assets()
    assets.feed(page.text)
    assert len(assets.found) == 3
    for asset in assets.found:
        reply = httpx.get(f"{deployment.origin}/{asset}")
        assert reply.status_code == 200
        assert len(reply.content) > 100
    assert "script-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert not re.search(r"<script>|on\w+=", page.text)


def test_the_document_is_served(deployment: Deployment) -> None:
    assert ok(httpx.get(f"{deployment.origin}/openapi.json")) == _DOCUMENT


def test_every_body_has_an_example() -> None:
    bodies = 0
    for path, operations in _DOCUMENT["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), (method, path)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                bodies += 1
                schema = content["schema"]
                ref = schema.get("$ref") or schema.get("anyOf", [{}])[0].get("$ref", "")
                name = ref.rpartition("/")[2]
                named = _DOCUMENT["components"]["schemas"].get(name, {})
                assert content.get("examples") or named.get("examples"), (method, path)
    assert bodies >= 10


def test_every_operation_documents_its_errors() -> None:
    for path, operations in _DOCUMENT["paths"].items():
        for operation in operations.values():
            unprocessable = operation["responses"].get("422", {"description": "idempotency key"})
            assert "idempotency key" in unprocessable["description"]
            if path.startswith("/v1"):
                assert {"400", "401", "403", "500"} <= operation["responses"].keys()
                assert operation["security"]


def test_examples_are_accepted_as_they_stand(admin: Client) -> None:
    """But for the names in them, which this server does not have."""
    content = _DOCUMENT["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]
    for example in content["application/json"]["examples"].values():
        error = refused(admin.http.post("/fine_tuning/jobs", json=example["value"]), 400)
        assert error["code"] == "model_not_found"
