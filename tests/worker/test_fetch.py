"""Fetching a base model from a hub: the server here answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.worker.deployment import ROOT

REVISION = "c0ffee" * 6 + "abcd"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"pickled",
    "modeling.py": b"print('code')",
}


class Hub(BaseHTTPRequestHandler):
    """One repository, `org/model`, for those who have its token."""

    requests: list[str]
    token = "hf_" + "t" * 20

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        self.requests.append(self.path)
        if self.headers["Authorization"] != f"Bearer {self.token}":
            self._reply(401, b"", {"X-Error-Code": "GatedRepo"}, body=body)
        elif self.path.startswith(f"/api/models/org/model/revision/{REVISION}"):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": "org/model", "sha": REVISION, "siblings": siblings}
            self._reply(200, json.dumps(info).encode(), {}, body=body)
        elif self.path.startswith(f"/api/models/org/model/tree/{REVISION}"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in FILES.items()
            ]
            self._reply(200, json.dumps(tree).encode(), {}, body=body)
        else:
            content = FILES[self.path.rsplit("/", 1)[1]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._reply(200, content, {"ETag": etag, "X-Repo-Commit": REVISION}, body=body)

    def _reply(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(hub: str, folder: Path, token: str = Hub.token) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub, "HF_TOKEN": token, "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "worker.fetch", "org/model", REVISION, str(folder / "model")],
        cwd=ROOT,
        env={**env, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        timeout=60,
    )


def test_only_what_is_safe_to_open_is_fetched_and_only_once(hub: str, tmp_path: Path) -> None:
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert found == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    asked = len(Hub.requests)
    assert fetch(hub, tmp_path).returncode == 0
    assert len(Hub.requests) == asked


def test_what_cannot_be_fetched_leaves_no_folder(hub: str, tmp_path: Path) -> None:
    refused = fetch(hub, tmp_path, token="hf_" + "w" * 20)
    assert refused.returncode != 0
    assert not (tmp_path / "model").exists()
    assert b"org/model" in refused.stderr
