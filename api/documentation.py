"""The OpenAPI document and the page that shows it, with every asset shipped along."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from api.schemas.common import ErrorReply
from training.section import PLAIN_TEXT

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
    422: "The idempotency key came with another body before.",
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


def bytes_reply(description: str, media_type: str = "*/*") -> dict[str, Any]:
    """The documented reply of a route that sends a file, of any type unless one is named."""
    schema = {} if media_type == "*/*" else {"schema": {"type": "string", "format": "binary"}}
    return {"description": description, "content": {media_type: schema}}


def stream_reply(description: str) -> dict[str, Any]:
    """The documented reply of a route that sends server-sent events; the schema is one event's."""
    text = {"type": "string"}
    schema = {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "id": text,
            "event": text,
            "data": {**text, "contentMediaType": "application/json"},
        },
    }
    return {"description": description, "content": {"text/event-stream": {"schema": schema}}}


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
        _narrow_parameters(app.openapi_schema)
        _define_errors(app.openapi_schema)
    return app.openapi_schema


def _drop_422(document: dict[str, Any]) -> None:
    """FastAPI documents a 422 of its own wherever a route has none; ours is 400."""
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            if responses.get("422", {}).get("description") not in {None, _REASONS[422]}:
                del responses["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _narrow_parameters(document: dict[str, Any]) -> None:
    """A parameter is a text without NUL or is not there: null is no value that it could have."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                schema = _without_null(parameter["schema"])
                free = schema.get("type") == "string" and not {"enum", "pattern"} & schema.keys()
                if parameter["in"] == "query" and free:
                    schema["pattern"] = PLAIN_TEXT
                parameter["schema"] = schema


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kept = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(kept) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**kept[0], **rest}


def _define_errors(document: dict[str, Any]) -> None:
    schema = ErrorReply.model_json_schema(ref_template=_REFERENCE)
    document["components"]["schemas"] |= {**schema.pop("$defs"), ErrorReply.__name__: schema}
