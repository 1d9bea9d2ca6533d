"""The result of a run: a folder that others can use, opened again and checked before it counts."""

import re
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from training.adapters import Trainable
from training.card import Card
from training.checkpoint import ADAPTER_FILE, adapter_state, write_weights
from training.distributed import Crew
from training.failures import RunError
from training.model import computation_dtype

_LORA_B = re.compile(r"lora_(?:embedding_)?B")
_FOREIGN_PREFIXES = ("_orig_mod.", "_fsdp_wrapped_module.")


@dataclass(frozen=True)
class Exported:
    """What goes into the result beside the weights.

    Attributes:
        template: The chat template the data was rendered with; None if none was used.
        stop_ids: Tokens that end what the model says.
        settings: Of generation, beside an adapter whose base does not stop at all of them.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    stop_ids: frozenset[int]
    settings: GenerationConfig | None
    card: Card


def export(model: Trainable, target: Path, exported: Exported, crew: Crew) -> None:
    """Write `target` whole: weights, tokenizer, chat template, model card and manifest.

    All processes of the run bring their parts of the weights; the first one writes.

    Raises:
        RunError: What was written does not hold what was trained; then nothing is left there.
    """
    with crew.complete_folder(target) as folder:
        if isinstance(model, PeftModel):
            write_weights(model, folder, keeps=crew.is_first)
            shapes = _shapes(model)
        else:
            shapes = {}
            _write_model(model, folder, exported, keeps=crew.is_first)
        if not crew.is_first:
            return
        if exported.template is not None:
            exported.tokenizer.chat_template = exported.template
        exported.tokenizer.save_pretrained(folder)
        if shapes:
            write_settings(folder, exported.settings)
            check_adapter(folder, shapes)
        else:
            check_model(folder)
        (folder / "README.md").write_text(exported.card.in_markdown(), encoding="utf-8")


def write_settings(folder: Path, settings: GenerationConfig | None) -> None:
    """Beside an adapter, for those who use it: where what it says ends."""
    if settings is not None:
        settings.to_json_file(folder / GENERATION_CONFIG_NAME)


def _write_model(model: Trainable, folder: Path, exported: Exported, *, keeps: bool) -> None:
    """The model in the precision it was trained for, and stopping as it was taught to."""
    if model.generation_config is not None:
        model.generation_config.eos_token_id = sorted(exported.stop_ids)
    model.config.use_cache = True
    dtype = computation_dtype(exported.card.config.model)
    write_weights(model, folder, keeps=keeps, dtype=dtype)


def _shapes(model: PeftModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in adapter_state(model).items()}


def check_adapter(folder: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Open a written adapter again and compare it with the one in memory.

    Args:
        folder: Holds the adapter.
        expected: Names and shapes of its tensors.

    Raises:
        RunError: Names or shapes differ, a name has a foreign prefix, a tensor is empty or not
            finite, or every `lora_B` is zero, so that the adapter would change nothing.
    """
    state = load_file(folder / ADAPTER_FILE)
    if foreign := sorted(name for name in state if _has_foreign_prefix(name)):
        raise _broken(f"{foreign[0]} has the prefix of a wrapper")
    if differing := sorted(state.keys() ^ expected.keys()):
        raise _broken(f"{differing[0]} is missing or was not expected")
    for name, tensor in state.items():
        if not tensor.numel():
            raise _broken(f"{name} is empty")
        if tuple(tensor.shape) != expected[name]:
            raise _broken(f"{name} has the shape {tuple(tensor.shape)}, not {expected[name]}")
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
