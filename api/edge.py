"""What every request passes first and every reply last: the outermost layer of the application.

It numbers requests, answers only to hosts it knows (a page of another site could otherwise reach
a server on localhost by rebinding its name), refuses writes from other origins, sets the security
headers, and turns whatever nobody expected into a 500 of the usual shape.
"""

import logging
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_body

_log = logging.getLogger(__name__)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PROBES = frozenset({"/healthz", "/readyz"})
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
_POLICY = "default-src 'none'; frame-ancestors 'none'"
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class Edge:
    """The outermost ASGI application."""

    def __init__(self, app: ASGIApp, allowed_hosts: list[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(scope, send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, reply.send)
            return
        try:
            await self._app(scope, receive, reply.send)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("%s %s failed (%s)", scope["method"], scope["path"], reply.request_id)
            if reply.started:
                raise  # the server cuts the connection: the client sees an incomplete reply
            await _failed(reply.request_id)(scope, receive, reply.send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope["path"] not in _PROBES and not self._knows(host):
            return _refused(
                421,
                f"host: {host!r} is not a name of this server; its names are in the setting "
                f"TUNESMITH_ALLOWED_HOSTS ({', '.join(sorted(self._hosts))})",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if scope["method"] not in _READING and origin is not None and _netloc(origin) != host:
            return _refused(
                403,
                f"origin: pages of {origin!r} may not send requests to this server",
                "origin_not_allowed",
            )
        return None

    def _knows(self, host: str) -> bool:
        if "*" in self._hosts:
            return True
        name = host.lower()
        bare = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
        return bare in self._hosts


class _Reply:
    """Adds the headers to a reply, and knows whether it has begun."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._is_docs = scope["path"] == "/docs"
        self._is_private = scope["path"].startswith("/v1")
        self.request_id = f"req_{secrets.token_hex(12)}"
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["content-security-policy"] = _DOCS_POLICY if self._is_docs else _POLICY
            headers.update(_HEADERS)
            if self._is_private:
                headers.setdefault("cache-control", "no-store")
        await self._send(message)


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _refused(status: int, message: str, code: str) -> JSONResponse:
    return JSONResponse(
        error_body(message, type_="invalid_request_error", code=code), status_code=status
    )


def _failed(request_id: str) -> JSONResponse:
    message = f"the server failed; its log says why under {request_id}"
    return JSONResponse(
        error_body(message, type_="server_error", code="internal_error"), status_code=500
    )
