"""The route class of everything below /v1: what is checked before a handler runs.

In this order: the API key, unknown or unusable query parameters, then the body. A stranger's body
is never read.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from api.auth import bearer_key
from api.bodies import read_json
from api.services import services_of
from jobs.errors import InvalidRequest, NotFound

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]

BRACKETED_QUERY = "x-bracketed-query"
"""In a route's `openapi_extra`: query parameters spelled `name[key]`, which it reads itself."""


class ApiRoute(APIRoute):
    """A route that knows its caller, and takes only what it declares."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()
        fields = get_flat_params(self.dependant)
        known = {field.alias for field in fields if isinstance(field.field_info, Query)}
        extra = self.openapi_extra or {}
        bracketed = extra.get(BRACKETED_QUERY)

        async def checked(request: Request) -> Response:
            services = services_of(request)
            request.state.caller = await services.keyring.identify(bearer_key(request))
            _refuse_unknown(request, known, bracketed)
            if (body := self.body_field) is not None:
                request = await read_json(
                    request,
                    services.settings.max_body_bytes,
                    is_optional=not body.field_info.is_required(),
                )
            return await handle(request)

        return checked


def bracketed_key(parameter: str, name: str) -> str | None:
    """The `key` of a query parameter spelled `parameter[key]`, brackets of its own included."""
    found = re.fullmatch(rf"{parameter}\[(.*)\]", name, re.DOTALL)
    return None if found is None else found[1]


def _refuse_unknown(request: Request, known: set[str], bracketed: str | None) -> None:
    if any("\0" in str(value) for value in request.path_params.values()):
        raise NotFound("there is nothing under a name with a NUL character")
    for key, value in request.query_params.multi_items():
        if "\0" in value or "\0" in key:
            raise InvalidRequest(
                "the query holds a NUL character; remove it", param=key.replace("\0", "")
            )
        is_bracketed = bracketed is not None and (
            key == bracketed or bracketed_key(bracketed, key) is not None
        )
        if key not in known and not is_bracketed:
            accepted = ", ".join(sorted(known | ({f"{bracketed}[key]"} if bracketed else set())))
            raise InvalidRequest(
                f"{key}: unknown query parameter; accepted here: {accepted or 'none'}",
                param=key,
                code="unknown_parameter",
            )
