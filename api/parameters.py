"""Query parameters that several routes take."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from api.routing import bracketed_key
from jobs.errors import InvalidRequest

After = Annotated[
    str | None, Query(max_length=100, description="The id of the last item of the page before.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="Items of a page.")]

METADATA = "metadata"


@dataclass(frozen=True)
class Cut:
    """Which part of a list of events is asked for."""

    after: str | None
    limit: int
    tail: int | None


Tail = Annotated[
    int | None,
    Query(ge=0, le=1000, description="Only the last ones, so many of the types asked for."),
]


async def _cut(after: After = None, limit: Limit = 20, tail: Tail = None) -> Cut:
    if tail is not None and after is not None:
        raise InvalidRequest("tail: the last events come after none; leave out after", param="tail")
    return Cut(after, limit, tail)


CutOfEvents = Annotated[Cut, Depends(_cut)]


def metadata_filter(request: Request) -> dict[str, str] | None:
    """The pairs of `metadata[key]=value`; `{}` for `metadata=null`; None where nothing is asked.

    Raises:
        InvalidRequest: It is spelled in another way, gives a key twice, or asks for both.
    """
    pairs: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        key = bracketed_key(METADATA, name)
        if key in pairs:
            raise InvalidRequest(f"{name} is given twice; give it once", param=name)
        if key is not None:
            pairs[key] = value
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
