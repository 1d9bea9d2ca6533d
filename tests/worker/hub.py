"""A model hub in this process, which answers as the real one does, refusals included."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

REVISION = "c0ffee" * 6 + "abcd"
TOKEN = "hf_" + "t" * 20
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"pickled",
    "modeling.py": b"print('code')",
}
Mood = Literal["open", "gated", "gated files", "forbidden", "gone", "no revision", "broken"]
_REFUSALS: dict[str, tuple[int, str]] = {
    "gated": (403, "GatedRepo"),
    "forbidden": (403, ""),
    "gone": (404, "RepoNotFound"),
    "no revision": (404, "RevisionNotFound"),
    "broken": (500, ""),
}


@dataclass
class Repository:
    """What was pushed: the files of every branch, and how each commit was called."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return f"{len(self.commits):040x}"


class Hub:
    """One repository to read, `org/model`, and whatever is pushed by those who have its token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.mood: Mood = "open"
        self.wants_token = False
        self.loses_bytes = False
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        """What came as `Authorization` with a push, the uploads of large files left out."""
        self.pushed: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}


@contextmanager
def running_hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        hub.requests.append(self.path)
        is_file = not self.path.startswith("/api/")
        mood = "gated" if hub.mood == "gated files" and is_file else hub.mood
        if hub.wants_token and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._reply(401, b"", {"X-Error-Code": "GatedRepo"}, body=body)
        elif mood in _REFUSALS:
            status, code = _REFUSALS[mood]
            self._reply(status, b"", {"X-Error-Code": code} if code else {}, body=body)
        elif (pushed := self._pushed()) is not None:
            self._send(pushed)
        elif is_file:
            content = FILES[self.path.rsplit("/", 1)[1]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._reply(200, content, {"ETag": etag, "X-Repo-Commit": REVISION}, body=body)
        else:
            self._reply(200, json.dumps(self._facts()).encode(), {}, body=body)

    def do_PUT(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        hub.objects[self.path.rsplit("/", 1)[1]] = self._body()
        self._send({})

    def do_POST(self) -> None:
        """A push, for whoever has the token."""
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        body = self._body()
        hub.requests.append(self.path)
        hub.tokens.add(self.headers["Authorization"])
        path = unquote(self.path)
        if hub.mood in _REFUSALS or self.headers["Authorization"] != f"Bearer {TOKEN}":
            status, code = _REFUSALS.get(hub.mood, (403, ""))
            self._reply(status, b"{}", {"X-Error-Code": code} if code else {}, body=True)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+?)/(branch|preupload|commit)/(.+)", path):
            repository = hub.pushed[found[1]]
            getattr(self, f"_{found[2]}")(repository, found[1], found[3], body)
        elif path.endswith("/info/lfs/objects/batch"):
            self._large_files(json.loads(body))
        else:
            self._reply(404, b"", {}, body=True)

    def _create(self, asked: dict[str, Any]) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        name = f"{asked['organization']}/{asked['name']}"
        is_new = name not in hub.pushed
        hub.pushed.setdefault(name, Repository(asked.get("visibility") == "private"))
        self._send({"url": f"{hub.url}/{name}"}, 200 if is_new else 409)

    def _branch(self, repository: Repository, _name: str, branch: str, _body: bytes) -> None:
        is_new = branch not in repository.branches
        repository.branches.setdefault(branch, dict(repository.branches["main"]))
        self._send({}, 201 if is_new else 409)

    def _preupload(self, repository: Repository, _name: str, branch: str, body: bytes) -> None:
        there = repository.branches[branch]
        files = [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if fnmatch(asked["path"], "*.safetensors") else "regular",
                "shouldIgnore": False,
                "oid": _oid(asked["path"], there[asked["path"]])
                if asked["path"] in there
                else None,
            }
            for asked in json.loads(body)["files"]
        ]
        self._send({"files": files})

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        header, *operations = map(json.loads, body.splitlines())
        files = repository.branches[branch]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                content = hub.objects[value["oid"]]
                files[value["path"]] = content[: -1 if hub.loses_bytes else None]
            else:
                del files[value["path"]]
        repository.commits.append(header["value"]["summary"])
        url = f"{hub.url}/{name}/commit/{repository.head}"
        self._send({"commitOid": repository.head, "commitUrl": url})

    def _large_files(self, asked: dict[str, Any]) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        found = [
            each | {"actions": {"upload": {"href": f"{hub.url}/objects/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        self._send({"transfer": "basic", "objects": found})

    def _pushed(self) -> object | None:
        """What is asked of a repository that was pushed to."""
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(self.path.partition("?")[0])
        found = re.fullmatch(r"/api/models/(.+?)(?:/(tree|revision)/(.+))?", path)
        if found is None or found[1] not in hub.pushed:
            return None
        repository = hub.pushed[found[1]]
        if found[2] != "tree":
            return {"id": found[1], "sha": repository.head, "siblings": []}
        # A commit is asked for by its number; here every branch ends in the newest one.
        branch = found[3] if found[3] in repository.branches else [*repository.branches][-1]
        return [_entry(name, each) for name, each in repository.branches[branch].items()]

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _send(self, answer: object, status: int = 200) -> None:
        self._reply(status, json.dumps(answer).encode(), {}, body=True)

    def _facts(self) -> object:
        if self.path.startswith(f"/api/models/org/model/tree/{REVISION}"):
            return [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in FILES.items()
            ]
        siblings = [{"rfilename": name} for name in FILES]
        return {"id": "org/model", "sha": REVISION, "siblings": siblings}

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


def _oid(name: str, content: bytes | None) -> str | None:
    """As git names a file, or git-lfs a large one; None for what is not there."""
    if content is None:
        return None
    if fnmatch(name, "*.safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _oid(name, content)}
    if not fnmatch(name, "*.safetensors"):
        return entry
    sha256 = hashlib.sha256(content).hexdigest()
    return entry | {"lfs": {"oid": sha256, "size": len(content), "pointerSize": 100}}
