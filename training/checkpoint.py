"""Checkpoints: everything a run needs to go on as if it had never stopped.

    adapter_model.safetensors, adapter_config.json     or, without an adapter, the model's files
    optimizer.pt  scheduler.pt  rng_state.pth          (scaler.pt with float16)
    trainer_state.json  ledger.json  manifest.json

A checkpoint is found by its manifest, and its hashes are compared before any of it is opened.
"""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from training.adapters import Trainable
from training.failures import RunError
from training.reporting import Reporter
from training.run_directory import RunDirectory, remove_folder

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


def find_checkpoint(directory: RunDirectory, reporter: Reporter) -> Path | None:
    """The newest checkpoint that is whole; newer ones that are not are named in a warning."""
    found = directory.newest_valid_checkpoint()
    newest_step = step_of(found) if found else -1
    for folder in checkpoint_folders(directory):
        if step_of(folder) > newest_step:
            reporter.warn(f"{folder.name} is damaged and is left out.", checkpoint=folder.name)
    return found


def prune_checkpoints(directory: RunDirectory, keep: int) -> None:
    """Delete all but the `keep` newest."""
    for folder in checkpoint_folders(directory)[:-keep]:
        remove_folder(folder)


def checkpoint_folders(directory: RunDirectory) -> list[Path]:
    """Oldest first."""
    folders = directory.checkpoints.glob("checkpoint-*")
    return sorted((p for p in folders if p.name[11:].isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _foreign(folder: Path) -> RunError:
    return RunError(
        "checkpoint_mismatch",
        f"{folder.name} holds the weights of another model or adapter.",
        fault="spec",
        remedy="Resume with the configuration the checkpoint was made with, or start anew.",
    )
