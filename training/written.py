"""What was written, opened again before it counts: it has to be what was trained."""

import re
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from training.checkpoint import ADAPTER_FILE, Shapes
from training.failures import RunError

_LORA_B = re.compile(r"lora_(?:embedding_)?B")
_FOREIGN_PREFIXES = ("_orig_mod.", "_fsdp_wrapped_module.")


def shapes_of(adapter: Path) -> Shapes:
    """What the file in an adapter's folder holds, by its header."""
    with safe_open(adapter / ADAPTER_FILE, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def check_adapter(folder: Path, expected: Shapes) -> None:
    """Open a written adapter again and compare it with the one in memory.

    Args:
        folder: Holds the adapter.
        expected: Names and shapes of its tensors.

    Raises:
        RunError: Names or shapes differ, a name has a foreign prefix, or a tensor is empty.
    """
    found = shapes_of(folder)
    if foreign := sorted(name for name in found if _has_foreign_prefix(name)):
        raise _broken(f"{foreign[0]} has the prefix of a wrapper")
    if differing := sorted(found.keys() ^ expected.keys()):
        raise _broken(f"{differing[0]} is missing or was not expected")
    for name, shape in found.items():
        if 0 in shape:
            raise _broken(f"{name} is empty")
        if shape != expected[name]:
            raise _broken(f"{name} has the shape {shape}, not {expected[name]}")


def check_learned(folder: Path) -> None:
    """Open a written adapter again and see whether it changes anything.

    Raises:
        RunError: A tensor is not finite, or every `lora_B` is zero.
    """
    state = load_file(folder / ADAPTER_FILE)
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise _broken(f"{name} is not finite")
    if not any(tensor.any() for name, tensor in state.items() if _LORA_B.search(name)):
        raise RunError(
            "nothing_learned",
            "Every lora_B is zero: the adapter has learned nothing.",
            fault="spec",
            param="training.optimization",
            remedy="Train longer, or at a higher rate; the first step of a warm-up has none.",
        )


def check_model(folder: Path) -> None:
    """Open a written model again.

    Raises:
        RunError: There is no tensor, or one is empty, wrapped or not finite.
    """
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise _broken("it has no weights")
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                tensor = file.get_tensor(name)
                if _has_foreign_prefix(name):
                    raise _broken(f"{name} has the prefix of a wrapper")
                if not tensor.numel() or not tensor.isfinite().all():
                    raise _broken(f"{name} is empty or not finite")


def _has_foreign_prefix(name: str) -> bool:
    return name.startswith("module.") or any(prefix in name for prefix in _FOREIGN_PREFIXES)


def _broken(reason: str) -> RunError:
    return RunError(
        "broken_result",
        f"The written result is not what was trained: {reason}.",
        fault="infrastructure",
        remedy="Look at the run's log, and report what it says.",
    )
