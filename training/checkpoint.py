"""The weights of a checkpoint, which holds all that a run needs to go on as if it never stopped.

adapter_model.safetensors, adapter_config.json     or, without an adapter, the model's files
optimizer.pt  scheduler.pt  rng_state.pth          (scaler.pt with float16)
trainer_state.json  ledger.json  manifest.json
"""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from training.adapters import Trainable
from training.failures import RunError

ADAPTER_FILE = "adapter_model.safetensors"


def write_weights(model: Trainable, folder: Path) -> None:
    """The trained weights: an adapter as PEFT lays it out, or a model as transformers does."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(folder)


def restore_weights(model: Trainable, folder: Path) -> None:
    """Put the weights of a verified checkpoint back.

    Raises:
        RunError: They are not the weights of this model with this adapter.
    """
    if isinstance(model, PeftModel):
        state = load_file(folder / ADAPTER_FILE)
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        if _shapes(state) != _shapes(expected):
            raise _foreign(folder)
        set_peft_model_state_dict(model, state)
        return
    state = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        state |= load_file(shard)
    result = model.load_state_dict(state, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if result.unexpected_keys or set(result.missing_keys) - tied:
        raise _foreign(folder)
    model.tie_weights()


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _foreign(folder: Path) -> RunError:
    return RunError(
        "checkpoint_mismatch",
        f"{folder.name} holds the weights of another model or adapter.",
        fault="spec",
        remedy="Resume with the configuration the checkpoint was made with, or start anew.",
    )
