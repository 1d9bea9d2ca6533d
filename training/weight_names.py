"""The weights of a model by name, kind and shape, and the short form that is kept of them. Light.

A model of a hundred layers has thousands of weights and a dozen kinds of names; what is kept in
the catalogue names each once, with the first and the last of the layers that have it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import SchemaError, SchemaValidator, core_schema

Kind = Literal["linear", "conv1d", "embedding", "head", "convolution", "other"]
"""`conv1d` is a linear layer that stores its weight as (in, out), as GPT-2 does."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Weight:
    """One parameter of a model in memory.

    Attributes:
        shape: Of a quantised layer, the shape before quantisation.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def layer(self) -> int | None:
        """The number of the layer it belongs to: the first number in its name."""
        found = _NUMBER.search(self.name)
        return None if found is None else int(found.group())


class WeightGroup(BaseModel):
    """Weights that differ only in the number of their layer, `*` in the name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    kind: Kind
    shape: tuple[int, ...]
    first: int | None = None
    last: int | None = None


def named(name: str, asked: str) -> bool:
    """Whether PEFT takes `asked` for `name`: all of it, or its last parts."""
    return name == asked or name.endswith(f".{asked}")


def grouped(weights: Iterable[Weight]) -> tuple[WeightGroup, ...]:
    """The short form of `weights`."""
    numbers: dict[tuple[str, Kind, tuple[int, ...]], list[int | None]] = defaultdict(list)
    for weight in weights:
        pattern = weight.name if weight.layer is None else _NUMBER.sub("*", weight.name, count=1)
        numbers[pattern, weight.kind, weight.shape].append(weight.layer)
    return tuple(
        WeightGroup(name=name, kind=kind, shape=shape, first=first, last=last)
        for (name, kind, shape), found in numbers.items()
        for first, last in _ranges(found)
    )


def listed(groups: Iterable[WeightGroup]) -> list[Weight]:
    """The weights behind a short form."""
    return [
        Weight(group.name.replace("*", str(number)), group.kind, group.shape)
        for group in groups
        for number in (
            (None,)
            if group.first is None or group.last is None
            else range(group.first, group.last + 1)
        )
    ]


def _ranges(numbers: list[int | None]) -> Iterator[tuple[int | None, int | None]]:
    found = sorted(number for number in numbers if number is not None)
    if not found:
        yield None, None
        return
    first = last = found[0]
    for number in found[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


@lru_cache(maxsize=64)
def pattern_matcher(key: str) -> Callable[[str], bool]:
    """Whether a name fits a key of PEFT's `rank_pattern` and `alpha_pattern`.

    The expression comes from a user: it is matched in time linear in the name, whatever it says.

    Raises:
        ValueError: It is no regular expression, or needs what such matching cannot do.
    """
    try:
        re.compile(key)
        validator = SchemaValidator(core_schema.str_schema(pattern=rf"^(.*\.)?({key})$"))
    except (re.error, RecursionError) as error:
        raise ValueError(f"{key!r} is no regular expression: {error}") from error
    except SchemaError as error:
        raise ValueError(
            f"{key!r} is no regular expression without look-around, back-references and large "
            "repetitions; name modules by what is alike in them, e.g. "
            r"'layers\.(0|1)\.self_attn\.q_proj'"
        ) from error
    return validator.isinstance_python
