"""Every refusal has the one shape, the right status, and says what would be accepted."""

import httpx
import pytest

from tests.api.deployment import ROWS, Client, Deployment, refused


def test_400(admin: Client) -> None:
    error = refused(admin.http.get("/fine_tuning/jobs", params={"limit": 0}), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", "limit")
    assert "0" in error["message"]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("Bearer", "missing_api_key"),
        ("Basic dXNlcg==", "missing_api_key"),
        ("Bearer sk-tunesmith-nobody", "invalid_api_key"),
        (f"Bearer {'x' * 5000}", "invalid_api_key"),
        ("Bearer caf\u00e9", "invalid_api_key"),
    ],
)
def test_401(deployment: Deployment, header: str | None, code: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    reply = httpx.get(f"{deployment.origin}/v1/files", headers=headers)
    assert refused(reply, 401)["code"] == code
    assert reply.headers["www-authenticate"] == "Bearer"


def test_403(member: Client) -> None:
    error = refused(member.http.get("/api_keys"), 403)
    assert error["type"] == "permission_error"


def test_404_of_a_thing(admin: Client) -> None:
    error = refused(admin.http.get("/files/file-none"), 404)
    assert error["code"] == "file_not_found"
    assert "file-none" in error["message"]


def test_404_of_a_url(admin: Client) -> None:
    error = refused(admin.http.get("/nowhere"), 404)
    assert error["code"] == "unknown_url"
    assert "/v1/nowhere" in error["message"]


def test_405(admin: Client) -> None:
    reply = admin.http.post("/files/file-1")
    error = refused(reply, 405)
    assert error["code"] == "method_not_allowed"
    assert "POST" in error["message"]
    assert reply.headers["allow"] == "DELETE, GET"


def test_409_is_not_to_be_repeated(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin)
    reply = admin.http.post(f"/fine_tuning/jobs/{job['id']}/cancel")
    assert refused(reply, 409)["code"] == "job_finished"
    assert reply.headers["x-should-retry"] == "false"


def test_413(admin: Client) -> None:
    body = {"model": "tiny", "training_file": "f" * 30_000}
    error = refused(admin.http.post("/fine_tuning/jobs", json=body), 413)
    assert "20000" in error["message"]


def test_413_without_a_declared_length(admin: Client) -> None:
    reply = admin.http.post(
        "/fine_tuning/jobs",
        content=(b" " * 1000 for _ in range(30)),
        headers={"content-type": "application/json"},
    )
    refused(reply, 413)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", ";"])
def test_415_of_a_body(admin: Client, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    reply = admin.http.post("/fine_tuning/jobs", content=b"{}", headers=headers)
    assert "application/json" in refused(reply, 415)["message"]


def test_415_of_an_encoding(admin: Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    reply = admin.http.post("/fine_tuning/jobs", content=b"{}", headers=headers)
    assert refused(reply, 415)["param"] == "content-encoding"


def test_415_of_an_upload(admin: Client) -> None:
    reply = admin.http.post("/files", content=ROWS, headers={"content-type": "application/jsonl"})
    assert "multipart/form-data" in refused(reply, 415)["message"]


def test_500_tells_a_number_and_nothing_else(
    deployment: Deployment, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    file = admin.upload()
    deployment.store.delete(f"files/{file['id']}")
    reply = admin.http.get(f"/files/{file['id']}/content")
    error = refused(reply, 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    number = reply.headers["x-request-id"]
    assert number in error["message"]
    assert number in caplog.text
    assert "Traceback" not in reply.text
    assert str(deployment.settings.data_dir) not in reply.text


def test_unknown_query_parameters_are_named(admin: Client) -> None:
    error = refused(admin.http.get("/files", params={"limits": 3}), 400)
    assert (error["param"], error["code"]) == ("limits", "unknown_parameter")
    assert "limit" in error["message"]


@pytest.mark.parametrize("path", ["/files/a%00b", "/models/a%00b", "/fine_tuning/jobs/%00/runs"])
def test_nul_in_a_path_is_nowhere(admin: Client, path: str) -> None:
    refused(admin.http.get(path), 404)


def test_nul_in_the_query(admin: Client) -> None:
    refused(admin.http.get("/files?after=%00"), 400)


@pytest.mark.parametrize("path", ["/files/%ff%fe", "/models/%ed%a0%80", "/files/..%2f..%2fetc"])
def test_odd_names_do_not_exist(admin: Client, path: str) -> None:
    refused(admin.http.get(path), 404)
