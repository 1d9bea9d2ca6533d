"""What all replies share: OpenAI's list envelope, and whole seconds."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    """A frozen reply."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Identified(Reply):
    id: str


Item = TypeVar("Item", bound=Reply)
Named = TypeVar("Named", bound=Identified)


class Listing(Reply, Generic[Item]):
    """A list in one piece, or a page whose next one follows `after=<id of the last item>`."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False


class CursorListing(Listing[Named], Generic[Named]):
    """A page that also names its ends."""

    first_id: str | None = None
    last_id: str | None = None

    @classmethod
    def of(cls, data: list[Named], *, has_more: bool) -> "CursorListing[Named]":
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, has_more=has_more, first_id=first, last_id=last)


class ErrorDetail(Reply):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """Every error, of every status."""

    error: ErrorDetail


class Deleted(Identified):
    object: str
    deleted: bool = True


def seconds(at: float) -> int:
    """A time of the database as OpenAI writes it: whole Unix seconds."""
    return int(at)


def optional_seconds(at: float | None) -> int | None:
    return None if at is None else int(at)
