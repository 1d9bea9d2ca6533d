"""A job file in the making, and what of its source could not be carried over, with the reason.

Every key of the source goes through a rule, which says what it sets, or why it sets nothing. What
the server would refuse is found out here, by the classes that it checks a job with.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cli.client import Json
from cli.errors import CliError
from jobs.requests import JobRequest
from training.spellings import SECTIONS, SpellingError, canonical, is_known

Value = Any
Settings = Mapping[str, Value]
"""Values by dotted keys of a job; below `training` any spelling that a job may have."""
Rule = Callable[[Value], Settings]
"""What a key of a source sets; raises LeftOut if that cannot be set."""

_INTEGRATIONS = {"wandb": {"project": "huggingface"}, "mlflow": {"experiment": "Default"}}
"""Where transformers sends metrics if nobody says where to."""

NOTHING_LIKE_IT = "there is no such thing here"
_UNKNOWN = "Extra inputs are not permitted"
_PREFIX = "Input should "
_TRAINING = "training."
_Path = tuple[str, ...]


class LeftOut(Exception):  # noqa: N818 - it is no failure
    """A value that cannot be carried over, or not all of it.

    Args:
        reason: Why.
        kept: What is set all the same.
    """

    def __init__(self, reason: str, kept: Settings | None = None) -> None:
        super().__init__(reason)
        self.kept = kept or {}


@dataclass(frozen=True)
class Note:
    """A key of the source, as it stands there, and why it was not carried over."""

    key: str
    reason: str


def to(*paths: str) -> Rule:
    """Set every one of these keys to the value."""
    return lambda value: dict.fromkeys(paths, value)


def left_out(reason: str) -> Rule:
    """Set nothing; a value that asks for nothing is not worth a word."""

    def refuse(value: Value) -> Settings:
        if value is None or value is False:
            return {}
        raise LeftOut(reason)

    return refuse


def silent(_value: Value) -> Settings:
    """What is so in any case, or means nothing here."""
    return {}


def chosen(choices: Mapping[Value, Settings], otherwise: str) -> Rule:
    """What a value means; `otherwise` is the reason for any other value."""

    def choose(value: Value) -> Settings:
        if not isinstance(value, str | bool | int | None) or value not in choices:
            raise LeftOut(otherwise)
        return choices[value]

    return choose


class Draft:
    """A job that is put together key by key."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._body: Json = {}
        self._origins: dict[_Path, str] = {}
        self._defaults: dict[_Path, Value] = {}
        self.notes: list[Note] = []

    def carry(self, key: str, value: Value, *, shown_as: str | None = None) -> None:
        """Set what a key of the source means, or note why that cannot be."""
        self.carry_by(self._rule(key), shown_as or key, value)

    def carry_by(self, rule: Rule, shown_as: str, value: Value) -> None:
        try:
            for path, setting in rule(value).items():
                self._put(shown_as, path, setting)
        except LeftOut as reason:
            self.note(shown_as, str(reason))
            if kept := reason.kept:
                self.carry_by(lambda _value: kept, shown_as, value)

    def note(self, key: str, reason: str) -> None:
        if (note := Note(key, reason)) not in self.notes:
            self.notes.append(note)

    def value(self, path: str) -> Value:
        """What is set so far at a dotted path; None: nothing."""
        return _at(self._body, tuple(path.split(".")))

    def default(self, path: str, value: Value) -> None:
        """What the source's program does where its user says nothing, or nothing valid."""
        place = tuple(path.split("."))
        self._defaults.setdefault(place, value)
        if self.value(path) is None:
            self._set(place, value)

    def withdraw(self, path: str, reason: str) -> None:
        """Take what the source set at or below a dotted path out again."""
        place = tuple(path.split("."))
        for found in [found for found in self._origins if found[: len(place)] == place]:
            self._remove(found)
            self.note(self._origins.pop(found), reason)

    def finished(self) -> Json:
        """The job; what the server would refuse of it has become a note.

        Raises:
            CliError: What is refused is no single key.
        """
        for kind, default in _INTEGRATIONS.items():
            self._move_integration(kind, default)
        while True:
            try:
                JobRequest.model_validate(self._body)
            except ValidationError as error:
                for complaint in error.errors():
                    self._drop(_keys(self._body, complaint["loc"]), complaint["msg"])
            else:
                return self._body

    def _rule(self, key: str) -> Rule:
        if key in self._rules:
            return self._rules[key]
        return to(_TRAINING + key) if is_known(key) else left_out(NOTHING_LIKE_IT)

    def _put(self, key: str, path: str, value: Value) -> None:
        if not path.startswith(_TRAINING):
            self._claim(key, tuple(path.split(".")), value)
            return
        *section, name = path.removeprefix(_TRAINING).split(".")
        training = {section[0]: {name: value}} if section else {name: value}
        try:
            settings = canonical(training)
        except SpellingError as error:
            raise LeftOut(_sentence(error.words)) from None
        for found, setting in _leaves(settings):
            self._claim(key, ("training", *found), setting)

    def _claim(self, key: str, path: _Path, value: Value) -> None:
        if value is None:
            return
        before = self._origins.get(path)
        if before is not None and _at(self._body, path) != value:
            raise LeftOut(f"{before} says otherwise")
        self._set(path, value)
        self._origins[path] = key

    def _set(self, path: _Path, value: Value) -> None:
        *parents, last = path
        target = self._body
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value

    def _remove(self, path: _Path) -> Value:
        """What was there; an object that is empty without it goes, too."""
        *parents, last = path
        value = _at(self._body, tuple(parents)).pop(last)
        if parents and not _at(self._body, tuple(parents)):
            self._remove(tuple(parents))
        return value

    def _move_integration(self, kind: str, default: Mapping[str, str]) -> None:
        """What was said of a tracker, under its name, as an integration, if metrics go there."""
        said = self._body.pop(kind, {})
        is_asked = said.pop("is_asked", False)
        place = str(len(self._body.get("integrations", ())))
        for path in [path for path in self._origins if path[0] == kind]:
            key = self._origins.pop(path)
            if is_asked:
                self._origins["integrations", place, *path] = key
            else:
                self.note(key, f"no metrics are sent to {kind}")
        if is_asked:
            integration = {"type": kind, kind: {**default, **said}}
            self._body.setdefault("integrations", []).append(integration)

    def _drop(self, place: _Path, message: str) -> None:
        """Take the key at fault out of the job."""
        found = [path for path in self._origins if place[: len(path)] == path]
        if not found:
            where = ".".join(place) or "the job"
            raise CliError(f"this cannot become a job: {where}: {_sentence(message)}")
        for path in found:
            value = self._remove(path)
            if path in self._defaults:
                self._set(path, self._defaults[path])
            reason = _sentence(message)
            told = reason if reason == NOTHING_LIKE_IT else f"{reason}; it is {value!r}"
            self.note(self._origins.pop(path), told)


def _leaves(settings: Mapping[str, Value]) -> list[tuple[_Path, Value]]:
    """The keys of canonical settings, and of the one object among them that has spellings."""
    found: list[tuple[_Path, Value]] = []
    for section, values in settings.items():
        if section not in SECTIONS:  # to be refused, where the job is checked
            found.append(((section,), values))
            continue
        for key, value in values.items():
            if key == "quantization" and isinstance(value, Mapping):
                found += [((section, key, inner), each) for inner, each in value.items()]
            else:
                found.append(((section, key), value))
    return found


def _at(values: Value, path: _Path) -> Value:
    for key in path:
        if isinstance(values, list):
            values = values[int(key)]
        else:
            values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _keys(value: Value, place: Iterable[str | int]) -> _Path:
    """A place without the names of a union's members, which are no keys."""
    found: list[str] = []
    for part in place:
        is_key = isinstance(value, Mapping) and part in value
        if is_key or (isinstance(value, list) and isinstance(part, int)):
            found.append(str(part))
            value = value[part]
    return tuple(found)


def _sentence(message: str) -> str:
    if message == _UNKNOWN:
        return NOTHING_LIKE_IT
    words = message.removeprefix("Value error, ")
    return f"should {words.removeprefix(_PREFIX)}" if words.startswith(_PREFIX) else words
