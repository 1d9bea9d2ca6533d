"""Weights that were tuned before, on their way into the directory of a run that needs them.

A whole model takes the place of the base model. A checkpoint of one holds no tokenizer: what it
lacks of the base's small files is linked beside it.
"""

from pathlib import Path

from jobs.artifacts.base import ArtifactStore
from jobs.service.endings import Ending
from jobs.service.starts import StoredWeights
from jobs.states import RunOutcome
from training.events import Failure
from worker.transfers import Check, Mismatch, download
from worker.verdict import Unusable

_WEIGHTS = (".safetensors", ".safetensors.index.json")


def stage_weights(store: ArtifactStore, weights: StoredWeights, folder: Path, check: Check) -> None:
    """Download every file into `folder`.

    Raises:
        Unusable: A file is missing or has changed.
        Stopped: The run is to stop.
        Fenced: The run is no longer ours.
    """
    try:
        for file in weights.files:
            download(store, file.key, folder / file.path, file.sha256, check)
    except (FileNotFoundError, Mismatch) as error:
        failure = Failure(
            code="input_changed",
            message=f"a file of {weights.name} is missing or has changed: {error}",
            fault="infrastructure",
            param="model",
            remedy="start from another checkpoint, or from the base model",
        )
        raise Unusable(Ending(RunOutcome.FAILED, failure)) from error


def stage_whole_model(
    store: ArtifactStore, weights: StoredWeights, base: Path, folder: Path, check: Check
) -> None:
    """A folder that can be loaded in place of `base`; raises as `stage_weights` does."""
    stage_weights(store, weights, folder, check)
    for path in base.iterdir():
        target = folder / path.name
        if path.is_file() and not path.name.endswith(_WEIGHTS) and not target.exists():
            target.symlink_to(path.resolve())
