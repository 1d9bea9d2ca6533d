"""The one table from what went wrong to the HTTP reply, for every status the API sends.

Every error has the body `{"error": {"message", "type", "param", "code"}}`, which the OpenAI
clients turn into their exceptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.validation import body_model, refusal
from jobs.errors import (
    Conflict,
    Contradiction,
    Forbidden,
    InvalidRequest,
    JobsError,
    NotFound,
    TooLarge,
    Unauthenticated,
)


@dataclass(frozen=True)
class Reply:
    """How one kind of error is answered, unless the error itself knows a better code."""

    status: int
    type: str
    code: str
    headers: Mapping[str, str] | None = None


class UnsupportedMediaType(JobsError):  # noqa: N818 - as the rest of the tree
    """The body is of a kind that this route does not read."""


class RangeNotSatisfiable(JobsError):  # noqa: N818
    """The range asked for lies outside of the file, which has `num_bytes` bytes."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(
            f"range: the file has {num_bytes} bytes; ask for a range within them, such as bytes=0-",
            param="range",
        )
        self.num_bytes = num_bytes


class Unavailable(JobsError):  # noqa: N818
    """The service cannot answer now, but probably soon."""


_REQUEST = "invalid_request_error"
_SERVER = "server_error"

ERRORS: Mapping[type[Exception], Reply] = {
    InvalidRequest: Reply(400, _REQUEST, "invalid_request"),
    Unauthenticated: Reply(401, _REQUEST, "invalid_api_key", {"www-authenticate": "Bearer"}),
    Forbidden: Reply(403, "permission_error", "forbidden"),
    NotFound: Reply(404, _REQUEST, "not_found"),
    # The OpenAI clients repeat a 409 by themselves, and this one will not get better.
    Conflict: Reply(409, _REQUEST, "conflict", {"x-should-retry": "false"}),
    TooLarge: Reply(413, _REQUEST, "too_large"),
    UnsupportedMediaType: Reply(415, _REQUEST, "unsupported_media_type"),
    Contradiction: Reply(422, _REQUEST, "contradiction"),
    RangeNotSatisfiable: Reply(416, _REQUEST, "range_not_satisfiable"),
    Unavailable: Reply(503, _SERVER, "unavailable", {"retry-after": "1"}),
    OperationalError: Reply(503, _SERVER, "database_unavailable", {"retry-after": "1"}),
    InterfaceError: Reply(503, _SERVER, "database_unavailable", {"retry-after": "1"}),
    PoolTimeout: Reply(503, _SERVER, "overloaded", {"retry-after": "1"}),
}
_DATABASE_AWAY = "the database does not answer; try again in a moment"
_WORDS: Mapping[type[Exception], str] = {
    OperationalError: _DATABASE_AWAY,
    InterfaceError: _DATABASE_AWAY,
    PoolTimeout: "too many requests are waiting for the database; try again in a moment",
}
_CODES: Mapping[int, str] = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}


def error_body(
    message: str, *, type_: str, param: str | None = None, code: str | None = None
) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def install(app: FastAPI) -> None:
    """Answer every error of the table, and those of the framework, in the one shape."""
    for kind in ERRORS:
        app.add_exception_handler(kind, _from_table)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_framework)


def reply_to(error: Exception) -> JSONResponse:
    """The reply to an error of the table (or of a subclass of one of its rows)."""
    kind = next(kind for kind in type(error).__mro__ if kind in ERRORS)
    reply = ERRORS[kind]
    headers = dict(reply.headers or {})
    message, param, code = _WORDS.get(kind, str(error)), None, reply.code
    if isinstance(error, JobsError):
        message, param, code = error.message, error.param, error.code or reply.code
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.num_bytes}"
    return JSONResponse(
        error_body(message, type_=reply.type, param=param, code=code),
        status_code=reply.status,
        headers=headers,
    )


async def _from_table(_request: Request, error: Exception) -> JSONResponse:
    return reply_to(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return reply_to(refusal(error.errors(), body_model(request.scope["route"]), error.body))


async def _of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    messages = {
        404: f"unknown URL {request.method} {request.url.path}; see /docs for those there are",
        405: f"{request.url.path} does not take {request.method}",
    }
    kind = _REQUEST if status < 500 else _SERVER
    headers = error.headers
    if status == 405:
        headers = {"allow": ", ".join(sorted(_methods_at(request)))}
    return JSONResponse(
        error_body(messages.get(status, str(error.detail)), type_=kind, code=_CODES.get(status)),
        status_code=status,
        headers=headers,
    )


def _methods_at(request: Request) -> set[str]:
    """What all routes of the path take together; the framework tells those of the first only."""
    return {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.original_route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
