"""The OpenAPI document and the page that shows it, with every asset shipped along."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from api.schemas.common import ErrorReply

_STATIC = Path(__file__).parent / "static"
_DESCRIPTION = """
Supervised fine-tuning in OpenAI's words: upload a file, create a job, follow it, download the
adapter. Send the header `Authorization: Bearer <key>` with every request below `/v1`.
"""
_REASONS = {
    400: "Something in the request is not accepted; `param` names it.",
    401: "No API key, or one that is not valid.",
    403: "The key's role does not allow it, or the request comes from another site's page.",
    404: "There is no such thing in the key's project.",
    409: "The state of the thing does not allow it.",
    413: "Over a size limit.",
    415: "A content type that is not read here.",
    416: "The range lies outside of the file.",
    421: "The Host header is not one that this server answers to.",
    500: "The server failed; its log has the request id.",
    503: "The server cannot answer now; try again in a moment.",
}
_REFERENCE = "#/components/schemas/{model}"
_ERROR = {"schema": {"$ref": _REFERENCE.format(model=ErrorReply.__name__)}}
_ALWAYS = (400, 401, 403, 421, 500, 503)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Tunesmith API</title>
<link rel="stylesheet" href="static/swagger-ui/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="static/swagger-ui/swagger-ui-bundle.js"></script>
<script src="static/docs.js"></script>
</body>
</html>
"""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented errors of a route: those every route has, and `statuses`.

    By reference: a model for each error of each route would cost a fifth of the start.
    """
    return {
        status: {"description": _REASONS[status], "content": {"application/json": _ERROR}}
        for status in sorted({*_ALWAYS, *statuses})
    }


def bytes_reply(description: str, media_type: str = "application/octet-stream") -> dict[str, Any]:
    """The documented reply of a route that sends a file."""
    return {
        "description": description,
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
    }


def install(app: FastAPI) -> None:
    """Serve `/docs`, its assets and `/openapi.json`, without a key."""
    pages = APIRouter(include_in_schema=False)

    @pages.get("/docs")
    def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    @pages.get("/openapi.json")
    def document() -> Mapping[str, Any]:
        return app.openapi()

    app.include_router(pages)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
        )
        _drop_422(app.openapi_schema)
        _define_errors(app.openapi_schema)
    return app.openapi_schema


def _drop_422(document: dict[str, Any]) -> None:
    """FastAPI documents its own 422 everywhere; ours is 400."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _define_errors(document: dict[str, Any]) -> None:
    schema = ErrorReply.model_json_schema(ref_template=_REFERENCE)
    document["components"]["schemas"] |= {**schema.pop("$defs"), ErrorReply.__name__: schema}
