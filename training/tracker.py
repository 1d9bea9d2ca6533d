"""What a tracker is, and what every one of them is told of a run; `training.trackers` opens them.

A tracker is a convenience: one that cannot be had, or fails, is told of and training goes on.
"""

import os
import re
from typing import Any, Protocol

from training.config import TrainingConfig
from training.ledger import Numbers
from training.run_spec import RunSpec

_SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+(?=@)|\b(?i:basic|bearer)\s+[\w.~+/=-]{8,}")
_HIDDEN = "[redacted]"
_MAX_CHARACTERS = 500


class Tracker(Protocol):
    """Takes the numbers of a step; never raises."""

    def write(self, step: int, numbers: Numbers) -> None: ...

    def close(self, *, failed: bool) -> None: ...


def grouped(numbers: Numbers) -> dict[str, float | int]:
    """By their names in a tracker; what could not be measured is left out."""
    return {
        f"{'valid' if 'valid' in name else 'train'}/{name}": value
        for name, value in numbers.items()
        if value is not None
    }


def facts(spec: RunSpec, config: TrainingConfig) -> dict[str, Any]:
    """What a run trains and how, without the words of anybody's prompts."""
    return {
        "base_model": spec.base_model,
        "name": spec.name,
        "seed": spec.seed,
        "start": None if spec.start is None else spec.start.name,
        "training": config.model_dump(mode="json", exclude={"evaluation": {"sample_prompts"}}),
    }


def shared_id(spec: RunSpec) -> str | None:
    """What the attempts of a job have in common, so that they are one run; None outside a job."""
    return spec.name.rpartition(":")[2] if spec.name.startswith("ft:") else None


def reason(error: Exception) -> str:
    """Why a tracker cannot be had; a server may have answered with what it was sent."""
    text = _CREDENTIALS.sub(_HIDDEN, str(error))
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, _HIDDEN)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
