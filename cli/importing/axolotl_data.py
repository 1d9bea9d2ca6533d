"""The data sets of an Axolotl configuration: their files, and what is said of their rows."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, chosen, left_out, silent
from cli.importing.values import carry_files, named_file

_DATA = "training.data"


def carry_datasets(draft: Draft, key: str, value: Value) -> dict[str, Value]:
    """Take the files over; gives the type of each data set by its place."""
    files, types = list[str](), dict[str, Value]()
    for index, entry in enumerate(_entries(value)):
        place = f"{key}[{index}]"
        named = _files_of(draft, place, entry)
        if not named:
            draft.note(place, "should be a path, or an object with `path` or `data_files`")
            continue
        files += [named_file(draft, f"{place}.path", name) for name in named]
        types[f"{place}.type"] = entry.get("type", "alpaca")
        for other in [each for each in entry if each not in _READ]:
            draft.carry_by(_UNREAD.get(other, _DETECTED), f"{place}.{other}", entry[other])
    carry_files(draft, key, files, is_validation=key == "test_datasets")
    return types


def carry_types(draft: Draft, types: Mapping[str, Value]) -> None:
    """A job has one format, or none, where that of each file is detected."""
    names = {_type_name(value) for value in types.values()} & _TYPES.keys()
    rule = _type_among_others if len(names) > 1 else _dataset_type
    for place, value in types.items():
        draft.carry_by(rule, place, value)


def _roles_to_train(value: Value) -> Settings:
    roles = value if isinstance(value, list) else [value]
    if any(role not in _TRAINED for role in roles):
        raise LeftOut(_LOSS)
    return {}


_TRAINED = ("assistant", "gpt", None)
_SPLIT = chosen({"train": {}, None: {}}, "a file has no splits; all of its rows are taken")
_READ = frozenset({"path", "data_files", "type", "ds_type", "split"})
_DETECTED = left_out("what a file's rows are is detected from them")
_ALL_ROWS = left_out("all rows of a file are taken; data.max_train_rows is for all files")
_LOSS = "data.train_on says which turns have loss, and a message's `weight` may take it away"
_END = "the token that ends a turn has loss where the turn has, by data.train_on"
_LAYOUT = "all files have one layout: data.template"
_UNREAD: Mapping[str, Rule] = MappingProxyType(
    {
        "roles_to_train": _roles_to_train,
        "train_on_eos": chosen({"turn": {}, None: {}}, _END),
        "train_on_eot": chosen({"turn": {}, None: {}}, _END),
        "message_field_training": left_out(_LOSS),
        "message_field_training_detail": left_out(_LOSS),
        "drop_system_message": left_out("a row's system message stays; take it out of the file"),
        "chat_template": chosen({"tokenizer_default": {}, None: {}}, _LAYOUT),
        "chat_template_jinja": left_out(_LAYOUT),
        "conversation": left_out(_LAYOUT),
        "shards": _ALL_ROWS,
        "shards_idx": _ALL_ROWS,
        "preprocess_shards": silent,
        "name": left_out("a file has no subsets; all of its rows are taken"),
        "revision": silent,
        "trust_remote_code": left_out("no code of a data set is run"),
    }
)
"""What is said of a data set beside the place and the type of its rows."""


def _entries(value: Value) -> list[Mapping[str, Any]]:
    """A data set, or a list of them, of which each may be its path only; what is none is empty."""
    entries = value if isinstance(value, list) else [] if value is None else [value]
    paths = [{"path": entry} if isinstance(entry, str) else entry for entry in entries]
    return [entry if isinstance(entry, Mapping) else {} for entry in paths]


def _files_of(draft: Draft, place: str, entry: Mapping[str, Any]) -> list[str]:
    """The files that are named most closely; a data set of a hub stays a name, to be replaced."""
    named, split = entry.get("data_files") or entry.get("path") or [], entry.get("split")
    wanted, part, _ = ("train" if split is None else str(split)).partition("[")
    if part or not isinstance(named, Mapping):
        draft.carry_by(_SPLIT, f"{place}.split", split)
    if isinstance(named, Mapping):
        for other in [each for each in named if each != wanted]:
            draft.note(f"{place}.data_files.{other}", f"the files of {wanted!r} are taken")
        named = named.get(wanted) or []
    return [str(name) for name in (named if isinstance(named, list) else [named])]


def _dataset_type(value: Value) -> Settings:
    """The format of the rows, and the layout where the type names one."""
    if value is None:
        raise LeftOut("rows of tokens are not read; give them as messages or texts")
    if value in _STYLES:
        raise LeftOut(f"there is no layout like that of {value!r}; data.template has others")
    if (name := _type_name(value)) not in _TYPES:
        raise LeftOut(f"rows of the type {value!r} are not read; make them messages")
    return _TYPES[name]


def _type_among_others(value: Value) -> Settings:
    _dataset_type(value)
    raise LeftOut("types differ, so the format of each file is detected; data.template is for all")


def _type_name(value: Value) -> str:
    return str(value).partition(".")[0].partition(":")[0]


_TYPES: Mapping[str, Settings] = MappingProxyType(
    {
        "alpaca": {f"{_DATA}.format": "instruct", f"{_DATA}.template": "alpaca"},
        "chat_template": {},
        "sharegpt": {f"{_DATA}.format": "sharegpt"},
        "completion": {f"{_DATA}.format": "text"},
    }
)
_STYLES = ("alpaca:chat", "alpaca:chatml", "alpaca:phi")
"""Layouts of Alpaca's rows that are not Alpaca's."""
