"""OpenAI's three hyperparameters and the keys of `TrainingConfig` that say the same.

Both may be given as long as they agree. `batch_size` is the effective one: rows of an optimiser
step. `learning_rate_multiplier` multiplies the default learning rate of the method.
"""

import math
from typing import Any

from jobs.errors import InvalidRequest
from jobs.requests import Hyperparameters, JobRequest
from training.config import TrainingConfig
from training.optimization_config import FULL_LEARNING_RATE, LORA_LEARNING_RATE, OptimizationConfig

_METHOD = "method.supervised.hyperparameters"
_TRAINING = "training.optimization"
_LARGEST_DEVICE_BATCH = 8


def merged(request: JobRequest) -> TrainingConfig:
    """The request's `training` with its hyperparameters worked in, not validated again.

    Raises:
        InvalidRequest: Two places set the same thing differently.
    """
    asked, prefix = _asked(request)
    training = request.training
    update: dict[str, Any] = {
        **_epochs(asked, training.optimization, prefix),
        **_batch(asked, training, prefix),
        **_learning_rate(asked, training, prefix),
    }
    if not update:
        return training
    optimization = training.optimization.model_copy(update=update)
    return training.model_copy(update={"optimization": optimization})


def echoed(training: TrainingConfig) -> dict[str, int | float | str]:
    """OpenAI's three of a configuration; `auto` where the rows are still to decide."""
    optimization = training.optimization
    epochs, default = optimization.num_train_epochs, _default_rate(training)
    rate = default if optimization.learning_rate is None else optimization.learning_rate
    return {
        "n_epochs": "auto" if epochs is None else int(epochs) if epochs.is_integer() else epochs,
        "batch_size": training.effective_batch_size,
        "learning_rate_multiplier": round(rate / default, 12),
    }


def _asked(request: JobRequest) -> tuple[Hyperparameters, str]:
    old, method = request.hyperparameters, request.method
    if method is None:
        return old or Hyperparameters(), "hyperparameters"
    new = method.supervised.hyperparameters
    for key in Hyperparameters.model_fields:
        if old is not None and "auto" not in (getattr(old, key), getattr(new, key)):
            _agree(
                f"hyperparameters.{key}", getattr(old, key), f"{_METHOD}.{key}", getattr(new, key)
            )
    if old is None:
        return new, _METHOD
    chosen = {k: v for k, v in old.model_dump().items() if v != "auto"}
    return Hyperparameters(**{**chosen, **_not_auto(new)}), _METHOD


def _not_auto(hyperparameters: Hyperparameters) -> dict[str, Any]:
    return {k: v for k, v in hyperparameters.model_dump().items() if v != "auto"}


def _agree(first: str, first_value: float, second: str, second_value: float) -> None:
    if not math.isclose(first_value, second_value, rel_tol=1e-9):
        raise InvalidRequest(
            f"{first} = {first_value} and {second} = {second_value} set the same thing "
            "differently; give one of them",
            param=first.partition(" ")[0],
        )


def _epochs(
    asked: Hyperparameters, optimization: OptimizationConfig, prefix: str
) -> dict[str, Any]:
    if asked.n_epochs == "auto":
        return {}
    if optimization.num_train_epochs is not None:
        _agree(
            f"{prefix}.n_epochs",
            asked.n_epochs,
            f"{_TRAINING}.num_train_epochs",
            optimization.num_train_epochs,
        )
    return {"num_train_epochs": float(asked.n_epochs)}


def _batch(asked: Hyperparameters, training: TrainingConfig, prefix: str) -> dict[str, Any]:
    if asked.batch_size == "auto":
        return {}
    optimization = training.optimization
    given = optimization.model_fields_set
    device, accumulation = "per_device_train_batch_size", "gradient_accumulation_steps"
    size, steps = optimization.per_device_train_batch_size, optimization.gradient_accumulation_steps
    processes = training.parallelism.count
    if device in given and accumulation in given:
        _agree(
            f"{prefix}.batch_size",
            asked.batch_size,
            f"{_TRAINING}.{device} * {accumulation}{_each(processes)}",
            training.effective_batch_size,
        )
        return {device: size, accumulation: steps}
    fixed, key = (size, device) if device in given else (steps, accumulation)
    if device in given or accumulation in given:
        fixed, key = fixed * processes, f"{_TRAINING}.{key}{_each(processes)}"
    else:
        fixed, key = processes, "training.parallelism.num_processes"
    rest = _divided(asked.batch_size, fixed, prefix, key)
    if device in given:
        steps = rest
    elif accumulation in given:
        size = rest
    else:
        size = next(n for n in range(_LARGEST_DEVICE_BATCH, 0, -1) if rest % n == 0)
        steps = rest // size
    return {device: size, accumulation: steps}


def _each(processes: int) -> str:
    return f" * {processes} processes" if processes > 1 else ""


def _divided(batch_size: int, by: int, prefix: str, key: str) -> int:
    if batch_size % by:
        raise InvalidRequest(
            f"{prefix}.batch_size = {batch_size} is not a multiple of {key} = {by}; "
            f"give a multiple of {by}",
            param=f"{prefix}.batch_size",
        )
    return batch_size // by


def _learning_rate(asked: Hyperparameters, training: TrainingConfig, prefix: str) -> dict[str, Any]:
    if asked.learning_rate_multiplier == "auto":
        return {}
    rate = asked.learning_rate_multiplier * _default_rate(training)
    if training.optimization.learning_rate is not None:
        _agree(
            f"{prefix}.learning_rate_multiplier * {_default_rate(training)}",
            rate,
            f"{_TRAINING}.learning_rate",
            training.optimization.learning_rate,
        )
    return {"learning_rate": rate}


def _default_rate(training: TrainingConfig) -> float:
    return LORA_LEARNING_RATE if training.adapter.type == "lora" else FULL_LEARNING_RATE
