"""What every part of a configuration is made of. Light."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _plain_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must not contain a lone surrogate")
    return value


PLAIN_TEXT = r"^[^\x00]*$"
Text = Annotated[str, AfterValidator(_plain_text), Field(json_schema_extra={"pattern": PLAIN_TEXT})]
"""A string that every database, file and tokenizer can hold."""


class Section(BaseModel):
    """A frozen part of a configuration that refuses unknown keys, NaN and infinity.

    Strict: nothing is taken for something else (`"8"` or `true` for a number, 1 for `true`), but
    for an integer where a float is wanted. A slip is told before a GPU is used.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), strict=True
    )
