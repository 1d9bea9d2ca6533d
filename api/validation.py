"""From pydantic's list of complaints to one refusal that a person can act on.

It names the field by its dotted path, shows the offending value, and says what would be accepted;
for an unknown key that is the list of the known ones, read from the model the route asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from jobs.errors import InvalidRequest
from training.json_lines import shown
from training.section import CONFLICT

_MAX_OTHERS = 5
_SHOULD = " should "
_BY_PYDANTIC = " after validation"
"""Of lists and objects; nobody who sends one knows of a time before."""
_OBJECT_EXPECTED = frozenset({"model_type", "model_attributes_type", "dict_type"})
_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_key",
    "refused_key": "unsupported_key",
}
_WORDS_ONLY = frozenset({"refused_key", "spelled_twice", CONFLICT})
"""Whose words tell what is to be known of the value, which may be a secret and is not shown."""

Complaint = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)


def refusal(complaints: Sequence[Complaint], model: object, body: object) -> InvalidRequest:
    """The first field at fault as an error, with the others named behind it.

    Args:
        complaints: Of FastAPI, so each place begins with its source, e.g. `body`.
        model: What the body was to be, if there is one.
        body: What came.
    """
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
    if first["type"] in {"value_error", CONFLICT} or _SHOULD not in first["msg"]:
        words = first["msg"].removeprefix("Value error, ")
        return f"{subject}: {words}{_value(first, '; got ')}"
    expected = dict.fromkeys(_expected(c) for c in complaints if _SHOULD in c["msg"])
    return f"{subject} should {' or '.join(expected)}{_value(first, ', but is ')}"


def _expected(complaint: Complaint) -> str:
    """What pydantic says should be, without its subject (`Input should be …`)."""
    if complaint["type"] in _OBJECT_EXPECTED:
        return "be a JSON object"
    message: str = complaint["msg"]
    return message.partition(_SHOULD)[2].replace(_BY_PYDANTIC, "")


def _value(complaint: Complaint, lead: str) -> str:
    value = complaint["input"]
    about_a_section = complaint["type"] == "value_error" and isinstance(value, dict)
    return "" if about_a_section or complaint["type"] in _WORDS_ONLY else lead + shown(value)


def checked(model: type[Model], body: object) -> Model:
    """A body that was put together here, as its model.

    Raises:
        InvalidRequest: It is not one; in the same words as for a body that came whole.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        complaints = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise refusal(complaints, model, body) from None


def body_model(route: object) -> object:
    """The model of the body that a route asks for."""
    if isinstance(route, APIRoute) and route.body_field is not None:
        return route.body_field.field_info.annotation
    return None


def _known_keys(annotation: object, path: Sequence[str]) -> list[str]:
    """The keys that the models at `path` below `annotation` take."""
    if not path:
        return list(dict.fromkeys(key for each in _objects(annotation) for key in _keys(each)))
    here = list(_fields(annotation, path[0])) or [annotation]  # an index into a list of models
    return [key for item in here for key in _known_keys(item, path[1:])]


def _fields(annotation: object, part: str | int) -> Iterator[object]:
    """The annotations of the field `part` of the models that `annotation` names."""
    for each in _objects(annotation):
        if part in (keys := _keys(each)):
            yield keys[str(part)]


def _keys(each: type) -> Mapping[str, object]:
    """The keys of a kind of object, with the annotation of each."""
    if issubclass(each, BaseModel):
        return {key: field.annotation for key, field in each.model_fields.items()}
    return get_type_hints(each)


def _objects(annotation: object) -> Iterator[type]:
    """The pydantic models and typed dicts in an annotation, however deep in unions and lists."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or is_typeddict(annotation)
    ):
        yield annotation
    for argument in get_args(annotation):
        yield from _objects(argument)
