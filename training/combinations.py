"""What of a configuration cannot work together, across its sections. Light.

What lies within one section is that section's own; what depends on the model is `training.facts`.
"""

from collections.abc import Iterator

from training.adapter_config import AdapterConfig
from training.data_config import DataConfig
from training.model_config import ModelConfig
from training.optimization_config import (
    FULL_LEARNING_RATE,
    LORA_LEARNING_RATE,
    OptimizationConfig,
)
from training.parallelism_config import ParallelismConfig
from training.section import Conflict


def conflicts(
    model: ModelConfig,
    adapter: AdapterConfig,
    parallelism: ParallelismConfig,
    optimization: OptimizationConfig,
) -> Iterator[Conflict]:
    """Every combination that cannot work, with the way out."""
    yield from _of_the_optimizer(adapter, optimization)
    if parallelism.splits_the_model:
        yield from _with_a_model_in_parts(parallelism.strategy, model, adapter)
    if model.quantization is not None:
        yield from _with_quantized_weights(model.quantization.bits, adapter)
    elif adapter.init_lora_weights == "loftq":
        yield Conflict(
            "adapter.init_lora_weights",
            'adapter.init_lora_weights "loftq" makes up for the error of quantized weights: '
            'set model.quantization to {"bits": 4}, or init_lora_weights to true',
        )


def no_loss_to_follow(
    optimization: OptimizationConfig, data: DataConfig, *, validates: bool
) -> str | None:
    """Why a schedule that goes by the held-out loss has none to go by.

    Args:
        optimization: What is asked.
        data: Says how many rows are held out.
        validates: Whether there is a file to evaluate on.
    """
    if not optimization.schedule.follows_loss or validates or data.eval_split:
        return None
    return (
        f"{optimization.lr_scheduler_type!r} follows the held-out loss, and there are no rows to "
        "measure it on; give a validation file, or set training.data.eval_split"
    )


def _of_the_optimizer(
    adapter: AdapterConfig, optimization: OptimizationConfig
) -> Iterator[Conflict]:
    if optimization.optimizer.projects and adapter.type != "none":
        yield Conflict(
            "optimization.optim",
            f'optimization.optim "{optimization.optim}" is for whole weights, which an adapter '
            'does not train: set adapter.type to "none", or optim to "adamw_torch"',
        )
    default = LORA_LEARNING_RATE if adapter.type == "lora" else FULL_LEARNING_RATE
    highest = optimization.learning_rate or default
    polynomial = {"lr_end": 1e-7} if optimization.lr_scheduler_type == "polynomial" else {}
    for key in ("lr_end", "min_lr"):
        lowest = {**polynomial, **optimization.lr_scheduler_kwargs}.get(key, 0)
        if isinstance(lowest, int | float) and lowest >= highest:
            yield Conflict(
                f"optimization.lr_scheduler_kwargs.{key}",
                f"optimization.lr_scheduler_kwargs.{key} is {lowest}, which is not below the "
                f"learning rate of {highest}: lower it, or raise optimization.learning_rate",
            )
    most = optimization.lr_scheduler_kwargs.get("max_lr", highest)
    if isinstance(most, int | float) and most < highest:
        yield Conflict(
            "optimization.lr_scheduler_kwargs.max_lr",
            f"optimization.lr_scheduler_kwargs.max_lr is {most}, below the learning rate of "
            f"{highest}: raise it, or lower optimization.learning_rate",
        )


def sampling_conflicts(data: DataConfig, optimization: OptimizationConfig) -> Iterator[Conflict]:
    """Blocks are filled from rows of any place and length, and are all about as long."""
    strategy = optimization.train_sampling_strategy
    if data.packing and strategy != "random":
        yield Conflict(
            "optimization.train_sampling_strategy",
            f'optimization.train_sampling_strategy "{strategy}" is for rows that are not packed: '
            'set data.packing to false, or train_sampling_strategy to "random"',
        )


def _with_a_model_in_parts(
    strategy: str, model: ModelConfig, adapter: AdapterConfig
) -> Iterator[Conflict]:
    whole_needed = {
        "adapter.target_parameters": strategy == "zero3" and bool(adapter.target_parameters),
        "model.add_tokens": bool(model.add_tokens),
        "model.add_special_tokens": bool(model.add_special_tokens),
        f'adapter.init_lora_weights "{adapter.init_lora_weights}"': adapter.decomposes,
    }
    for name, is_asked in whole_needed.items():
        if is_asked:
            yield Conflict(
                name.partition(" ")[0],
                f'{name} needs whole weights, which no process has with strategy "{strategy}": '
                'set parallelism.strategy to "ddp" or "zero2", or leave it out',
            )


def _with_quantized_weights(bits: int, adapter: AdapterConfig) -> Iterator[Conflict]:
    if adapter.type == "none":
        yield Conflict(
            "adapter.type",
            'quantized weights cannot be trained: set adapter.type to "lora", '
            "or remove model.quantization",
        )
    start = adapter.init_lora_weights
    if start == "loftq" and bits != 4:
        yield Conflict(
            "adapter.init_lora_weights",
            'adapter.init_lora_weights "loftq" is for 4 bits: set model.quantization.bits to 4',
        )
    elif start not in {True, "gaussian", "loftq"}:
        yield Conflict(
            "adapter.init_lora_weights",
            f'adapter.init_lora_weights "{start}" begins with the base weights as they are, which '
            'quantized ones are not: remove model.quantization, or set it to "loftq" '
            '(with 4 bits), "gaussian" or true',
        )
    if adapter.use_dora and bits == 8:
        # PEFT 0.21 takes the scales out of bitsandbytes 0.50's layers, whose next pass fails.
        yield Conflict(
            "adapter.use_dora",
            "adapter.use_dora cannot be trained on 8-bit weights: "
            "set model.quantization.bits to 4, or leave use_dora out",
        )
