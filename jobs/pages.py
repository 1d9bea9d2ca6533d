"""A page of a list, cut by a cursor: the id of the last item of the page before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items in order, and whether more follow."""

    items: list[T]
    has_more: bool

    @classmethod
    def of(cls, found: Sequence[T], limit: int) -> "Page[T]":
        """The first `limit` of what a query for `limit + 1` found."""
        return cls(items=list(found[:limit]), has_more=len(found) > limit)


@dataclass(frozen=True)
class Span:
    """Which part of a list is asked for: what follows the item `after`, in an order of time."""

    after: str | None
    limit: int
    descending: bool
