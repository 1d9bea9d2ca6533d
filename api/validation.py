"""From pydantic's list of complaints to one refusal that a person can act on.

It names the field by its dotted path, shows the offending value, and says what would be accepted;
for an unknown key that is the list of the known ones, read from the model the route asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from fastapi.routing import APIRoute
from pydantic import BaseModel

from jobs.errors import InvalidRequest
from training.json_lines import shown

_MAX_OTHERS = 5
_SHOULD = " should "
_OBJECT_EXPECTED = frozenset({"model_type", "model_attributes_type", "dict_type"})
_CODES = {"missing": "missing_field", "extra_forbidden": "unknown_key"}

Complaint = Mapping[str, Any]


def refusal(complaints: Sequence[Complaint], route: object, body: object) -> InvalidRequest:
    """The first field at fault as an error, with the others named behind it."""
    model = _body_model(route)
    by_field: dict[str, list[Complaint]] = {}
    for complaint in complaints:
        by_field.setdefault(_dotted(complaint, model, body), []).append(complaint)
    (field, first), *others = by_field.items()
    message = _sentence(field, first, model)
    if others:
        names = ", ".join(name for name, _ in others[:_MAX_OTHERS])
        message += f" (also wrong: {names}{', …' if len(others) > _MAX_OTHERS else ''})"
    return InvalidRequest(
        message, param=field or None, code=_CODES.get(first[0]["type"], "invalid_value")
    )


def _dotted(complaint: Complaint, model: object, body: object) -> str:
    """The path of the field, without the names of union members that pydantic puts into it."""
    source, *path = complaint["loc"]
    if source != "body":
        return ".".join(map(str, path))
    kept: list[str] = []
    values, annotations = [body], [model]
    for part in path:
        inner = [_item(value, part) for value in values if _has(value, part)]
        fields = [found for each in annotations for found in _fields(each, part)]
        if inner or fields:
            kept.append(str(part))
            values, annotations = inner, fields or annotations
    return ".".join(kept)


def _has(value: object, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _item(value: Any, part: str | int) -> object:  # noqa: ANN401 - JSON
    return value[part]


def _sentence(field: str, complaints: Sequence[Complaint], model: object) -> str:
    first = complaints[0]
    subject = field or "the body"
    if first["type"] == "missing":
        return f"{subject} is required"
    if first["type"] == "extra_forbidden":
        accepted = ", ".join(_known_keys(model, field.split(".")[:-1])) or "none"
        return f"{subject}: unknown key; the accepted keys here are {accepted}"
    if first["type"] == "value_error" or _SHOULD not in first["msg"]:
        words = first["msg"].removeprefix("Value error, ")
        return f"{subject}: {words}{_value(first, '; got ')}"
    expected = dict.fromkeys(_expected(c) for c in complaints if _SHOULD in c["msg"])
    return f"{subject} should {' or '.join(expected)}{_value(first, ', but is ')}"


def _expected(complaint: Complaint) -> str:
    """What pydantic says should be, without its subject (`Input should be …`)."""
    if complaint["type"] in _OBJECT_EXPECTED:
        return "be a JSON object"
    message: str = complaint["msg"]
    return message.partition(_SHOULD)[2]


def _value(complaint: Complaint, lead: str) -> str:
    value = complaint["input"]
    about_a_section = complaint["type"] == "value_error" and isinstance(value, dict)
    return "" if about_a_section else lead + shown(value)


def _body_model(route: object) -> object:
    if isinstance(route, APIRoute) and route.body_field is not None:
        return route.body_field.field_info.annotation
    return None


def _known_keys(annotation: object, path: Sequence[str]) -> list[str]:
    """The keys that the models at `path` below `annotation` take."""
    if not path:
        names = (key for model in _models(annotation) for key in model.model_fields)
        return list(dict.fromkeys(names))
    here = list(_fields(annotation, path[0])) or [annotation]  # an index into a list of models
    return [key for item in here for key in _known_keys(item, path[1:])]


def _fields(annotation: object, part: str | int) -> Iterator[object]:
    """The annotations of the field `part` of the models that `annotation` names."""
    for model in _models(annotation):
        if part in model.model_fields:
            yield model.model_fields[str(part)].annotation


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The pydantic models that an annotation names, however deep in unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
