"""Older and neighbouring spellings of the keys of `TrainingConfig`, in one table.

Replies always show the canonical name; a key given in both spellings is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from training.json_lines import shown

Value = Any
Spelling = tuple[tuple[str, ...], Callable[[Value], Value]]


def _same(value: Value) -> Value:
    return value


def _quantization(bits: int) -> Callable[[Value], Value]:
    def bits_or_none(value: Value) -> int | None:
        if value is not None and not isinstance(value, bool):
            raise ValueError(
                f"model.load_in_{bits}bit should be true, false or null, but is {shown(value)}"
            )
        return bits if value else None

    return bits_or_none


SPELLINGS: Mapping[str, Mapping[str, Spelling]] = {
    "data": {
        "block_size": (("max_length",), _same),
        "max_seq_length": (("max_length",), _same),
        "pack_into_block": (("packing",), _same),
    },
    "model": {
        "torch_dtype": (("dtype",), _same),
        "load_in_4bit": (("quantization", "bits"), _quantization(4)),
        "load_in_8bit": (("quantization", "bits"), _quantization(8)),
        "bnb_4bit_quant_type": (("quantization", "type"), _same),
        "bnb_4bit_use_double_quant": (("quantization", "double_quant"), _same),
    },
    "adapter": {
        "lora_r": (("r",), _same),
        "lora_target_modules": (("target_modules",), _same),
        "lora_modules_to_save": (("modules_to_save",), _same),
    },
    "optimization": {"warmup_ratio": (("warmup_steps",), _same)},
    "checkpoints": {"save_total_limit": (("keep",), _same)},
}


def canonical(training: Mapping[str, Value]) -> dict[str, Value]:
    """`training` with every known older spelling replaced; other keys are left alone.

    Raises:
        ValueError: Two spellings set the same thing, or a switch is no boolean.
    """
    return {
        section: _canonical_section(section, values) if isinstance(values, Mapping) else values
        for section, values in training.items()
    }


def _canonical_section(section: str, values: Mapping[str, Value]) -> dict[str, Value]:
    table = SPELLINGS.get(section, {})
    result: dict[str, Value] = {}
    given_as: dict[tuple[str, ...], str] = {}
    for key, value in values.items():
        path, convert = table.get(key, ((key,), _same))
        converted = convert(value)
        if converted is None and path != (key,):
            continue
        if path in given_as:
            raise ValueError(f"{section}.{given_as[path]} and {section}.{key} set the same thing")
        given_as[path] = key
        _set(result, path, converted)
    return result


def _set(target: dict[str, Value], path: tuple[str, ...], value: Value) -> None:
    *parents, last = path
    for parent in parents:
        inner = target.get(parent)
        target[parent] = dict(inner) if isinstance(inner, Mapping) else {}
        target = target[parent]
    if isinstance(value, Mapping) and isinstance(target.get(last), Mapping):
        value = {**target[last], **value}
    target[last] = value
