"""What every part of a configuration is made of. Light."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import (
    CoreSchema,
    custom_error_schema,
    no_info_after_validator_function,
)


def _plain_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must not contain a lone surrogate")
    return value


CONFLICT = "conflict"
"""The kind of a complaint whose words tell all values."""


def complaint(kind: str, place: tuple[str, ...], words: str, value: object) -> ValidationError:
    """A refusal of several keys together, told of the one at `place` as pydantic tells of a value.

    Raised in a validator, it keeps its place below the validator's own.
    """
    problem = PydanticCustomError(kind, "{words}", {"words": words})
    details = InitErrorDetails(type=problem, loc=place, input=value)
    return ValidationError.from_exception_data(kind, [details])


class Conflict(NamedTuple):
    """Keys that cannot work together.

    Attributes:
        key: The one to be told of, by its dotted place below the section that finds them.
        words: Why, and the way out.
    """

    key: str
    words: str


STORED: Mapping[str, bool] = MappingProxyType({"stored": True})
"""A context of validation: what is read was valid when it was stored."""
PLAIN_TEXT = r"^[^\x00]*$"


class _Plain:
    """Annotates a string that every database, file and tokenizer can hold.

    It stands behind a `Field` that bounds the length: pydantic counts the characters of a string,
    but the "items" of what a validator has returned.
    """

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_after_validator_function(_plain_text, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": PLAIN_TEXT}


PLAIN = _Plain()
Text = Annotated[str, PLAIN]


class InWords:
    """Annotates what a pattern is asked of: a refusal tells these words, not the pattern.

    Args:
        words: What the value should be, e.g. "a branch's name".
    """

    def __init__(self, words: str) -> None:
        self._words = words

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return custom_error_schema(
            handler(source),
            custom_error_type="spelling",
            custom_error_message=f"Input should be {self._words}",
        )


class Section(BaseModel):
    """A frozen part of a configuration that refuses unknown keys, NaN and infinity.

    Strict: nothing is taken for something else (`"8"` or `true` for a number, 1 for `true`), but
    for an integer where a float is wanted. A slip is told before a GPU is used.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), strict=True
    )

    @classmethod
    def kept(cls, stored: object) -> Self:
        """What was valid when it was stored, although keys may not go together any more."""
        return cls.model_validate(stored, context=STORED)

    @model_validator(mode="after")
    def _keys_fit_each_other(self, info: ValidationInfo) -> Self:
        for key, words in () if info.context is STORED else self._conflicts():
            raise complaint(CONFLICT, tuple(key.split(".")), words, None)
        return self

    def changed(self) -> list[str]:
        """The keys that are not at their defaults: a configuration is written out with all."""
        fields = type(self).model_fields
        return [key for key, field in fields.items() if getattr(self, key) != field.default]

    def _conflicts(self) -> Iterator[Conflict]:
        """Keys that are good by themselves, but cannot work together: what a section adds."""
        return iter(())
