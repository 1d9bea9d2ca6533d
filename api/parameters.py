"""Query parameters that several routes take."""

import re
from typing import Annotated

from fastapi import Query, Request

from jobs.errors import InvalidRequest

After = Annotated[
    str | None, Query(max_length=100, description="The id of the last item of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="Items of a page.")]

METADATA = "metadata"


def metadata_filter(request: Request) -> dict[str, str] | None:
    """The pairs of `metadata[key]=value`; `{}` for `metadata=null`; None where nothing is asked.

    Raises:
        InvalidRequest: It is spelled in another way, or asks for both.
    """
    pairs: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        key = re.fullmatch(rf"{METADATA}\[([^\[\]]+)\]", name)
        if key is not None:
            pairs[key[1]] = value
        elif name == METADATA:
            without = True
            if value != "null":
                raise InvalidRequest(
                    f"metadata: {value!r} is not read; write metadata[key]=value, or metadata=null "
                    "for jobs that have none",
                    param=METADATA,
                )
    if without and pairs:
        raise InvalidRequest("metadata: give pairs or null, not both", param=METADATA)
    return pairs if pairs or without else None
