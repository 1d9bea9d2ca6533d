"""Uploads: every row is checked on its way in, and whatever is refused leaves nothing behind."""

import http.client
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from jobs.models import File
from tests.api.deployment import ROWS, Client, Deployment, ok, refused

_ROW = ROWS.splitlines()[0]

_GOOD: list[tuple[bytes, int]] = [
    (ROWS, 3),
    (ROWS.rstrip(b"\n"), 3),
    (b"\xef\xbb\xbf" + ROWS, 3),
    (ROWS.replace(b"\n", b"\r\n"), 3),
    (b"\n\n" + ROWS + b"\n  \n", 3),
]


@pytest.mark.parametrize(("content", "num_rows"), _GOOD)
def test_spellings_of_the_same_rows(admin: Client, content: bytes, num_rows: int) -> None:
    file = admin.upload(content)
    assert (file["status"], file["num_rows"], file["format"]) == ("processed", num_rows, "messages")
    assert file["bytes"] == len(content)
    assert admin.http.get(f"/files/{file['id']}/content").content == content


_BAD: list[tuple[bytes, int, str]] = [
    (ROWS + b'{"messages":[]}\n', 4, "messages"),
    (ROWS + b"not json\n", 4, "JSON"),
    (_ROW + b"\n" + _ROW.replace(b'"a"', b'"\\u0000"'), 2, "NUL"),
    (_ROW + b"\n" + _ROW.replace(b'"a"', b'"\\ud800"'), 2, "surrogate"),
    (_ROW + b"\n" + _ROW.replace(b'"a"', b'"caf\xe9"'), 2, "UTF-8"),
    (_ROW + b"\n[1, 2]\n", 2, "object"),
    (_ROW + b'\n{"prompt": "a", "completion": "b"}\n', 2, "messages"),
    (
        _ROW + b"\n" + _ROW.replace(b'"a"', b'"' + b"x" * 20_000 + b'"') + b"\n" + _ROW,
        2,
        "10000 bytes",
    ),
    (b"", 1, "empty"),
    (b"\n\n", 1, "no rows"),
]


@pytest.mark.parametrize(("content", "line", "words"), _BAD)
def test_rows_in_error(admin: Client, content: bytes, line: int, words: str) -> None:
    file = admin.upload(content)
    assert file["status"] == "error"
    assert f"line {line}:" in file["status_details"]
    assert words in file["status_details"]
    report = ok(admin.http.get(f"/files/{file['id']}/report"))
    assert (report["file"], report["num_errors"]) == (file["id"], 1)
    (error,) = report["errors"]
    assert error["line"] == line
    assert error["accepted"]
    body = {"model": "tiny", "training_file": file["id"]}
    refusal = refused(admin.http.post("/fine_tuning/jobs", json=body), 400)
    assert refusal["code"] == "invalid_training_file"
    assert f"line {line}" in refusal["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x1f\x8b\x08" + bytes(range(256)),
        b"PK\x03\x04" + bytes(100),
        ROWS.decode().encode("utf-16"),
    ],
)
def test_what_is_no_text_is_no_upload(
    deployment: Deployment, admin: Client, content: bytes
) -> None:
    reply = admin.http.post("/files", files={"file": content}, data={"purpose": "fine-tune"})
    assert refused(reply, 400)["param"] == "file"
    _nothing_is_kept(deployment, admin)


def test_other_purposes_are_not_checked(admin: Client) -> None:
    content = bytes(range(256))
    file = admin.upload(content, purpose="user_data", name="data.bin")
    assert (file["status"], file["format"], file["num_rows"]) == ("processed", None, None)
    assert admin.http.get(f"/files/{file['id']}/content").content == content
    error = refused(admin.http.get(f"/files/{file['id']}/report"), 409)
    assert error["code"] == "file_not_checked"
    body = {"model": "tiny", "training_file": file["id"]}
    error = refused(admin.http.post("/fine_tuning/jobs", json=body), 400)
    assert error["code"] == "invalid_file_purpose"


def test_the_purpose_may_come_last(admin: Client) -> None:
    parts = [("file", ("a.jsonl", ROWS)), ("purpose", (None, b"fine-tune"))]
    assert ok(admin.http.post("/files", files=parts))["num_rows"] == 3
    binary = [("file", ("a.bin", bytes(range(256)))), ("purpose", (None, b"user_data"))]
    assert ok(admin.http.post("/files", files=binary))["status"] == "processed"
    text = [("file", ("a.bin", bytes(range(256)))), ("purpose", (None, b"fine-tune"))]
    refused(admin.http.post("/files", files=text), 400)


_FILE = ("file", ("a.jsonl", ROWS))
_PURPOSE = ("purpose", (None, b"fine-tune"))
_ANCHOR = ("expires_after[anchor]", (None, b"created_at"))
_SECONDS = "expires_after[seconds]"
_FORMS: list[tuple[list[tuple[str, tuple[str | None, bytes]]], str]] = [
    ([_FILE], "purpose"),
    ([_PURPOSE], "file"),
    ([("purpose", (None, b"pretraining")), _FILE], "purpose"),
    ([("purpose", (None, b"x" * 5000)), _FILE], "purpose"),
    ([_PURPOSE, _PURPOSE, _FILE], "purpose"),
    ([_PURPOSE, _FILE, _FILE], "file"),
    ([_PURPOSE, ("data", ("a.jsonl", ROWS))], "data"),
    ([_PURPOSE, ("file", (None, ROWS))], "file"),
    ([_PURPOSE, ("model", (None, b"tiny")), _FILE], "model"),
    ([("purpose", (None, b"fine-")), _FILE], "purpose"),
    ([("purpose", (None, b"")), _FILE], "purpose"),
    ([_PURPOSE, ("expires_after[seconds]", (None, b"3600")), _FILE], "expires_after[anchor]"),
    ([_PURPOSE, ("expires_after[anchor]", (None, b"created_at")), _FILE], "expires_after[seconds]"),
    ([_PURPOSE, ("expires_after[anchor]", (None, b"now")), _FILE], "expires_after[anchor]"),
    *[
        ([_PURPOSE, _ANCHOR, ("expires_after[seconds]", (None, seconds)), _FILE], _SECONDS)
        for seconds in (b"3599", b"2592001", b"1e4", b"-3600", b"", "\u0663600".encode())
    ],
    ([_PURPOSE, ("file", ("x" * 300, ROWS))], "file"),
    ([_PURPOSE, ("file", ("a\u202eb.jsonl", ROWS))], "file"),
]


@pytest.mark.parametrize(("parts", "param"), _FORMS)
def test_forms_that_are_refused(
    deployment: Deployment,
    admin: Client,
    parts: list[tuple[str, tuple[str | None, bytes]]],
    param: str,
) -> None:
    assert refused(admin.http.post("/files", files=parts), 400)["param"] == param
    _nothing_is_kept(deployment, admin)


def test_a_form_of_too_many_parts(deployment: Deployment, admin: Client) -> None:
    parts = [_PURPOSE, *[(f"f{n}", (None, b"")) for n in range(20)]]
    refused(admin.http.post("/files", files=parts), 400)
    _nothing_is_kept(deployment, admin)


@pytest.mark.parametrize("body", [b"", b"--b\r\n", b"no boundary here", b"x" * 10_000])
def test_broken_forms(deployment: Deployment, admin: Client, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    reply = admin.http.post("/files", content=body, headers=headers)
    refused(reply, 400)
    _nothing_is_kept(deployment, admin)


def test_a_path_in_the_filename_is_dropped(admin: Client) -> None:
    assert admin.upload(name="../../etc/passwd.jsonl")["filename"] == "passwd.jsonl"
    assert admin.upload(name="C:\\data\\a.jsonl")["filename"] == "a.jsonl"


@pytest.mark.parametrize("declared", [True, False])
def test_over_the_limit(deployment: Deployment, admin: Client, *, declared: bool) -> None:
    content = ROWS * 2000
    assert len(content) > deployment.settings.max_upload_bytes + (1 << 16)
    request = admin.http.build_request(
        "POST", "/files", files={"file": ("a.jsonl", content)}, data={"purpose": "fine-tune"}
    )
    if not declared:
        body = request.read()
        headers = {"content-type": request.headers["content-type"]}
        pieces = (body[at : at + 5000] for at in range(0, len(body), 5000))
        request = admin.http.build_request("POST", "/files", content=pieces, headers=headers)
    error = refused(admin.http.send(request), 413)
    assert "100000" in error["message"]
    _nothing_is_kept(deployment, admin)


def test_an_upload_that_is_broken_off(deployment: Deployment, admin: Client) -> None:
    where = urlsplit(deployment.origin)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Authorization: Bearer {admin.secret}\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )
    assert where.hostname is not None
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(head.encode() + ROWS)
        _until(lambda: _num_incoming(deployment) == 1)
    _until(lambda: _num_incoming(deployment) == 0)
    _nothing_is_kept(deployment, admin)


def test_a_strangers_upload_is_not_read(deployment: Deployment) -> None:
    where = urlsplit(deployment.origin)
    connection = http.client.HTTPConnection(where.netloc, timeout=10)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Length", "90000")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_a_deleted_file_is_hidden_at_once_even_in_use(
    deployment: Deployment, admin: Client
) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    file_id = job["training_file"]
    assert ok(admin.http.delete(f"/files/{file_id}")) == {
        "id": file_id,
        "object": "file",
        "deleted": True,
    }
    for path in ("", "/content", "/report"):
        refused(admin.http.get(f"/files/{file_id}{path}"), 404)
    refused(admin.http.delete(f"/files/{file_id}"), 404)
    assert ok(admin.http.get("/files"))["data"] == []
    body = {"model": "tiny", "training_file": file_id}
    refused(admin.http.post("/fine_tuning/jobs", json=body), 400)
    deployment.succeed(run)
    assert admin.job(job["id"])["training_file"] == file_id


def test_lists_of_files(admin: Client) -> None:
    ids = [admin.upload(name=f"{n}.jsonl")["id"] for n in range(3)]
    ids.append(admin.upload(purpose="batch")["id"])
    assert [f["id"] for f in ok(admin.http.get("/files"))["data"]] == ids[::-1]
    ascending = ok(admin.http.get("/files", params={"order": "asc", "limit": 2}))
    assert [f["id"] for f in ascending["data"]] == ids[:2]
    assert (ascending["has_more"], ascending["first_id"], ascending["last_id"]) == (
        True,
        ids[0],
        ids[1],
    )
    after = {"order": "asc", "after": ids[1], "purpose": "fine-tune"}
    rest = ok(admin.http.get("/files", params=after))
    assert [f["id"] for f in rest["data"]] == ids[2:3]
    assert rest["has_more"] is False
    admin.http.delete(f"/files/{ids[1]}")
    assert [f["id"] for f in ok(admin.http.get("/files", params=after))["data"]] == ids[2:3]


def _nothing_is_kept(deployment: Deployment, client: Client) -> None:
    assert ok(client.http.get("/files"))["data"] == []
    _until(lambda: _num_incoming(deployment) == 0)
    known = {file.artifact_key for file in deployment.all(File)}
    assert set(deployment.store.keys("files")) <= known


def _num_incoming(deployment: Deployment) -> int:
    return len(list((deployment.settings.artifacts_folder / ".incoming").iterdir()))


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
