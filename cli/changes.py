"""`--set key=value` arguments as the changes that a rerun takes."""

import json
from collections.abc import Sequence

from cli.client import Json
from cli.errors import CliError


def changes_of(settings: Sequence[str]) -> Json:
    """The object that `settings` describe; a key is a dotted path, a value JSON or plain text.

    Raises:
        CliError: One is not `key=value`, or two set the same thing.
    """
    changes: Json = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        path = key.split(".")
        if not equals or not all(path):
            raise CliError(
                f"--set {setting}: give a dotted key and a value, e.g. "
                "--set training.optimization.learning_rate=5e-5"
            )
        _put(changes, path, _value(value), setting)
    return changes


def _put(changes: Json, path: Sequence[str], value: object, setting: str) -> None:
    *sections, last = path
    for section in sections:
        inner = changes.setdefault(section, {})
        if not isinstance(inner, dict):
            raise _twice(setting)
        changes = inner
    if last in changes:
        raise _twice(setting)
    changes[last] = value


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _twice(setting: str) -> CliError:
    return CliError(f"--set {setting}: another --set gives that key or a part of it")
