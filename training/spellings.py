"""Older and neighbouring spellings of the keys of `TrainingConfig`, in one table.

They are understood in their sections, and beside them without any (`{"lora_r": 64}`), as
vigogne's and transformers' flat arguments are written; so are the canonical keys. Replies always
show the canonical name. What sets the same thing twice, differently, is refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from training.adapter_config import AdapterConfig
from training.data_config import DataConfig
from training.evaluation_config import CheckpointsConfig, EvaluationConfig, ReportingConfig
from training.model_config import ModelConfig
from training.optimization_config import OptimizationConfig
from training.parallelism_config import ParallelismConfig
from training.refused_keys import REFUSED
from training.section import Section

Value = Any
Settings = Mapping[str, Value]
"""Values by their canonical, dotted keys."""
Spelling = Callable[[Value], Settings]
"""What an older key sets; raises ValueError, with what should be, on a value it does not have."""

SECTIONS: Mapping[str, type[Section]] = MappingProxyType(
    {
        "data": DataConfig,
        "model": ModelConfig,
        "adapter": AdapterConfig,
        "optimization": OptimizationConfig,
        "parallelism": ParallelismConfig,
        "checkpoints": CheckpointsConfig,
        "evaluation": EvaluationConfig,
        "reporting": ReportingConfig,
    }
)


class SpellingError(ValueError):
    """A key that cannot be understood, with its place below `training`.

    Attributes:
        kind: Of pydantic's kind: `refused_key` for a key that is not honoured here at all.
    """

    def __init__(self, place: tuple[str, ...], kind: str, words: str, value: Value) -> None:
        super().__init__(f"{'.'.join(place)}: {words}")
        self.place = place
        self.kind = kind
        self.words = words
        self.value = value


def _unless_null(spelling: Spelling) -> Spelling:
    return lambda value: {} if value is None else spelling(value)


def _renamed(key: str) -> Spelling:
    return _unless_null(lambda value: {key: value})


def _switch(**settings: Value) -> Spelling:
    """True sets all of `settings`, in whose names `__` stands for a dot."""
    set_by_true = {key.replace("__", "."): value for key, value in settings.items()}

    def set_or_not(value: Value) -> Settings:
        if value is not None and not isinstance(value, bool):
            raise ValueError("be true, false or null")
        return set_by_true if value else {}

    return set_or_not


def _choice(choices: Mapping[str, Settings]) -> Spelling:
    def chosen(value: Value) -> Settings:
        if value is None:
            return {}
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"be {' or '.join(map(repr, choices))}")
        return choices[value]

    return chosen


def _target_modules(value: Value) -> Settings:
    """One name is a list of one, but for the one that stands for all of them."""
    is_name = isinstance(value, str) and value != "all-linear"
    return {"target_modules": [value] if is_name else value}


_INTEGRATIONS = {"wandb": "project", "mlflow": "experiment"}
"""Trackers that a job names beside `training`, and what it has to say of each."""


def _report_to(value: Value) -> Settings:
    names = [value] if isinstance(value, str) else value
    if names == ["none"]:
        return {"report_to": []}
    if isinstance(names, list) and any(name != "tensorboard" for name in names):
        asked = [name for name in _INTEGRATIONS if name in names] or list(_INTEGRATIONS)
        entries = (f'{{"type": "{n}", "{n}": {{"{_INTEGRATIONS[n]}": …}}}}' for n in asked)
        raise ValueError(
            f'be "tensorboard" or none; for {" and ".join(asked)}, give "integrations": '
            f"[{', '.join(entries)}] beside training"
        )
    return {"report_to": names}


def _true_or_nothing(key: str) -> Spelling:
    """A switch whose canonical key finds out by itself where it is not set."""
    return lambda value: {} if value is None or value is False else {key: value}


def _endless_is_null(key: str) -> Spelling:
    return lambda value: {key: None if value == -1 else value}


def _warmup_ratio(value: Value) -> Settings:
    """A share only: from 1 on, `warmup_steps` counts steps."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError("be a share of all steps, below 1 (warmup_steps is their number)")
    return {"warmup_steps": value}


def _from_json(key: str) -> Spelling:
    """What a command line can only say as text."""

    def read(value: Value) -> Settings:
        if not isinstance(value, str):
            return {key: value}
        try:
            return {key: json.loads(value)}
        except (ValueError, RecursionError) as error:
            raise ValueError("be a value or the JSON of one") from error

    return read


def _no_variant(value: Value) -> Settings:
    """Configurations of before the switches of PEFT have the key, always null."""
    if value is not None:
        raise ValueError(
            "be spelled as in PEFT: use_rslora, use_dora, init_lora_weights or loraplus_lr_ratio"
        )
    return {}


_INSTRUCT = {"format": "instruct", "template": "vigogne_alpaca"}
_PROCESSORS = {
    "alpaca": _INSTRUCT,
    "alpaca_seq2seq": {"format": "instruct", "template": "alpaca_seq2seq"},
    "vigogne_chat_v2": {"format": "messages", "template": "vigogne_chat_v2"},
    "vigogne_chat_v3": {"format": "messages", "template": "vigogne_chat_v3"},
}
_MODES = {"instruct": _INSTRUCT, "chat": _PROCESSORS["vigogne_chat_v2"]}

SPELLINGS: Mapping[str, Mapping[str, Spelling]] = MappingProxyType(
    {
        "data": {
            "max_seq_length": _renamed("max_length"),
            "model_max_length": _renamed("max_length"),
            "pack_into_block": _renamed("packing"),
            "model_min_length": _renamed("min_length"),
            "eval_split_ratio": _renamed("eval_split"),
            "max_train_samples": _renamed("max_train_rows"),
            "max_eval_samples": _renamed("max_eval_rows"),
            "processor_style": _choice(_PROCESSORS),
            "mode": _choice(_MODES),
        },
        "model": {
            "torch_dtype": _renamed("dtype"),
            "compute_dtype": _renamed("dtype"),
            "bnb_4bit_compute_dtype": _renamed("dtype"),
            "fp16": _switch(dtype="float16"),
            "bf16": _switch(dtype="bfloat16"),
            "use_flash_attention_2": _switch(attn_implementation="flash_attention_2"),
            "load_in_4bit": _switch(quantization__bits=4),
            "load_in_8bit": _switch(quantization__bits=8),
            "bnb_4bit_quant_type": _renamed("quantization.type"),
            "bnb_4bit_use_double_quant": _renamed("quantization.double_quant"),
            "use_nested_quant": _renamed("quantization.double_quant"),
            "add_tokens": _from_json("add_tokens"),
            "add_special_tokens": _from_json("add_special_tokens"),
        },
        "adapter": {
            "lora_r": _renamed("r"),
            "target_modules": _target_modules,
            "lora_target_modules": _unless_null(_target_modules),
            "lora_target_all_linear_layers": _switch(target_modules="all-linear"),
            "lora_modules_to_save": _renamed("modules_to_save"),
            "lora_fan_in_fan_out": _true_or_nothing("fan_in_fan_out"),
            "variant": _no_variant,
        },
        "optimization": {
            "activation_checkpointing": _renamed("gradient_checkpointing"),
            "group_by_length": _switch(train_sampling_strategy="group_by_length"),
            "sortish_sampler": _switch(train_sampling_strategy="group_by_length"),
            "warmup_ratio": _unless_null(_warmup_ratio),
            "max_steps": _endless_is_null("max_steps"),
        },
        "checkpoints": {"save_total_limit": _renamed("keep")},
        "reporting": {"report_to": _report_to},
    }
)

FLAT: Mapping[str, Spelling] = MappingProxyType(
    {
        "adapter": _choice(
            {
                "lora": {"adapter.type": "lora"},
                "qlora": {"adapter.type": "lora", "model.quantization.bits": 4},
                "none": {"adapter.type": "none"},
            }
        )
    }
)
"""Keys that stand beside the sections only."""

_NOT_FLAT = frozenset({"type", "format", "keep", "r", "strategy"})
"""Canonical keys that say too little without their section."""
_SECTION_OF: Mapping[str, str] = MappingProxyType(
    {
        key: section
        for section, config in SECTIONS.items()
        for key in (*config.model_fields, *SPELLINGS.get(section, ()))
        if key not in _NOT_FLAT
    }
)
_NESTED = frozenset({"quantization"})
"""Keys that hold an object whose own keys have older spellings."""


_Path = tuple[str, ...]


def is_known(key: str) -> bool:
    """Whether a key without a section is understood, or refused with a reason of its own."""
    return key in _SECTION_OF or key in FLAT or key in REFUSED


def canonical(training: Mapping[str, Value]) -> dict[str, Value]:
    """`training` with every known older spelling replaced; other keys are left alone.

    Raises:
        SpellingError: A key is refused, has no such value, or sets what another one sets.
    """
    result: dict[str, Value] = {}
    given_as: dict[_Path, str] = {}
    for place, path, value in _effective([*_settings(training)]):
        before = _at(result, path) if path in given_as else None
        if before is not None and value is not None and before != value:
            words = f"sets the same thing as training.{given_as[path]}; give one of them"
            raise SpellingError(place, "spelled_twice", words, value)
        if before is None:
            given_as[path] = ".".join(place)
            _set(result, path, value)
    return result


def without_flat_nulls(training: Mapping[str, Value]) -> dict[str, Value]:
    """A whole configuration as if flat keys of null were not there; `adapter` is one of them.

    In a change to a configuration they are: there, null stands for the default.
    """
    return {key: value for key, value in training.items() if value is not None or not is_known(key)}


class _Setting(NamedTuple):
    """What a key sets.

    Attributes:
        place: Where the key stands.
        path: Where the canonical key does; empty where nothing is set.
        value: Of the canonical key; where nothing is set, as it was given.
    """

    place: _Path
    path: _Path
    value: Value


_OF_4_BITS = frozenset({"bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "use_nested_quant"})
_BITS = ("model", "quantization", "bits")


def _effective(settings: Sequence[_Setting]) -> Iterator[_Setting]:
    """Those that are not overlooked beside others where their names come from.

    In transformers `warmup_steps` goes before `warmup_ratio`, but 0 of them leave it to the ratio;
    how 4 bits are used says nothing where `load_in_4bit` is false, or 8 bits are asked for.
    """
    said = {each.place[-1]: each.value for each in settings}
    overlooked = set[str]()
    if said.get("warmup_steps"):
        overlooked.add("warmup_ratio")
    elif said.get("warmup_ratio") is not None:
        overlooked.add("warmup_steps")
    bits = [each.value for each in settings if each.path == _BITS]
    if 4 not in bits and (bits or said.get("load_in_4bit") is False):
        overlooked |= _OF_4_BITS
    return (each for each in settings if each.path and each.place[-1] not in overlooked)


def _settings(training: Mapping[str, Value]) -> Iterator[_Setting]:
    for key, value in training.items():
        if key in FLAT and isinstance(value, str):
            yield from _spelled(FLAT[key], (key,), (), value)
        elif key in SECTIONS and isinstance(value, Mapping) and value:
            for inner in value:
                yield from _of_section(key, (key, inner), value[inner])
        elif key in _SECTION_OF:
            yield from _of_section(_SECTION_OF[key], (key,), value)
        elif not _is_refused((key,), value):
            yield _Setting((key,), (key,), value)


def _of_section(section: str, place: _Path, value: Value) -> Iterator[_Setting]:
    key = place[-1]
    spelling = SPELLINGS.get(section, {}).get(key)
    if spelling is not None:
        yield from _spelled(spelling, place, (section,), value)
    elif key in _NESTED and isinstance(value, Mapping) and value:
        for inner, setting in value.items():
            yield _Setting((*place, inner), (section, key, inner), setting)
    elif key in SECTIONS[section].model_fields or not _is_refused(place, value):
        yield _Setting(place, (section, key), value)


def _spelled(spelling: Spelling, place: _Path, parent: _Path, value: Value) -> Iterator[_Setting]:
    settings = _read(spelling, place, value)
    for path, setting in settings.items():
        yield _Setting(place, (*parent, *path.split(".")), setting)
    if not settings:
        yield _Setting(place, (), value)


def _read(spelling: Spelling, place: _Path, value: Value) -> Settings:
    try:
        return spelling(value)
    except ValueError as error:
        raise SpellingError(place, "spelling", f"Input should {error}", value) from None


def _is_refused(place: _Path, value: Value) -> bool:
    """Whether the key is one of `REFUSED` with a value that changes nothing.

    Raises:
        SpellingError: It is one of them, and asks for something.
    """
    refusal = REFUSED.get(place[-1])
    if refusal is None or refusal.allows(value):
        return refusal is not None
    # The value may be a secret, and is nobody's business.
    raise SpellingError(place, "refused_key", refusal.words, None)


def _at(values: Value, path: _Path) -> Value:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _set(values: dict[str, Value], path: _Path, value: Value) -> None:
    """Put a value where it belongs; an object that is empty or null gives way to its keys."""
    *parents, last = path
    target: Value = values
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            return  # refused where the whole configuration is checked
    if not value and isinstance(target.get(last), dict):
        return
    target[last] = dict(value) if isinstance(value, Mapping) else value
