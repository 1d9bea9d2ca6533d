"""The weights of a checkpoint, which holds all that a run needs to go on as if it never stopped.

adapter_model.safetensors, adapter_config.json     or, without an adapter, the model's files
optimizer.pt  scheduler.pt  rng_state.pth          (scaler.pt with float16)
trainer_state.json  ledger.json  manifest.json
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.adapters import Trainable
from training.failures import invalid_spec
from training.starting_points import for_any_base, foreign_weights, of_this_base, saved_config
from training.whole import gathered, is_in_parts, put_back, whole, whole_state

ADAPTER_FILE = "adapter_model.safetensors"

Shapes = Mapping[str, tuple[int, ...]]
"""Of an adapter's tensors, by their names."""

_SAME_KEYS = (
    *("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("target_parameters", "layers_to_transform", "trainable_token_indices"),
)
"""Of an adapter's configuration: what its weights mean depends on them."""


def write_weights(
    model: Trainable, folder: Path, *, keeps: bool = True, dtype: torch.dtype | None = None
) -> Shapes:
    """The trained weights: an adapter as PEFT lays it out, or a model as transformers does.

    Args:
        model: All processes that train it together call this.
        folder: Is there.
        keeps: Whether this process is the one that writes.
        dtype: Of a whole model from here on; None: as it is.

    Returns:
        What an adapter's file has to hold; nothing for a whole model.
    """
    if isinstance(model, PeftModel):
        state = adapter_state(model)
        if keeps:
            save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})
            saved_config(model).save_pretrained(str(folder))
        return {name: tuple(tensor.shape) for name, tensor in state.items()}
    if dtype is not None:
        nn.Module.to(model, dtype)
    parts = whole_state(model, keeps=keeps) if is_in_parts(model) else None
    if keeps:
        model.save_pretrained(folder, state_dict=parts)
    return {}


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """The tensors of an adapter's file, each in memory of its own, on the CPU."""
    with gathered(_trained(model)):
        parts = get_peft_model_state_dict(model, save_embedding_layers=False)
        state = {name: whole(tensor.detach()) for name, tensor in parts.items()}
        return {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in for_any_base(model, state).items()
        }


def _trained(model: Trainable) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def saved_adapter(folder: Path) -> dict[str, Tensor] | None:
    """The tensors of a saved adapter; None if `folder` is that of a whole model."""
    file = folder / ADAPTER_FILE
    return load_file(file) if file.is_file() else None


def check_goes_on(model: PeftModel, folder: Path) -> None:
    """Compare a saved adapter's configuration with what would be saved of `model`.

    Raises:
        RunError: It was made in another way.
    """
    made_with: dict[str, Any] = json.loads((folder / "adapter_config.json").read_bytes())
    wanted = saved_config(model)
    for key in _SAME_KEYS:
        found, expected = made_with.get(key), getattr(wanted, key)
        if (found or None) != (expected or None):
            raise invalid_spec(
                f"The adapter to go on from has {key} {found}, not {expected}.",
                param=f"training.adapter.{key}",
                remedy="Give the adapter's own, or begin a new one on the base model.",
            )


def restore_weights(model: Trainable, folder: Path) -> None:
    """Put the weights of a verified checkpoint back.

    Raises:
        RunError: They are not the weights of this model with this adapter.
    """
    if isinstance(model, PeftModel):
        state = load_file(folder / ADAPTER_FILE)
        if _shapes(state) != _shapes(adapter_state(model)):
            raise foreign_weights(folder.name)
        with gathered(_trained(model), to_change=True):
            set_peft_model_state_dict(model, of_this_base(model, state))
        return
    state = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        state |= load_file(shard)
    if is_in_parts(model):
        put_back(model, state)
        return
    result = model.load_state_dict(state, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if result.unexpected_keys or set(result.missing_keys) - tied:
        raise foreign_weights(folder.name)
    model.tie_weights()


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
