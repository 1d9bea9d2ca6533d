"""What cannot work together when several processes share a model. Light.

Each was tried, or is what the libraries say of themselves; where it depends on a version, on
DeepSpeed 0.19, PEFT 0.21, transformers 5.24 and torch 2.13.
"""

from collections.abc import Iterator

from training.evaluation_config import CheckpointsConfig
from training.misfit import Misfit
from training.model_config import ModelConfig
from training.optimization_config import OptimizationConfig
from training.parallelism_config import ParallelismConfig
from training.section import Conflict

_OFFLOADED = ("adamw_torch", "adamw_torch_fused")


def sharing_conflicts(
    parallelism: ParallelismConfig,
    model: ModelConfig,
    optimization: OptimizationConfig,
) -> Iterator[Conflict]:
    """Every combination that cannot work, with the way out."""
    strategy = parallelism.strategy
    if parallelism.splits_the_model:
        yield from _in_parts(strategy, model)
    offloads_optimizer = parallelism.uses_deepspeed and "optimizer" in parallelism.offloads
    if offloads_optimizer and optimization.optim not in _OFFLOADED:
        yield Conflict(
            "optimization.optim",
            f'optimization.optim "{optimization.optim}" would quietly become Adam when the '
            f"optimizer is offloaded: set it to {' or '.join(_OFFLOADED)}, or leave "
            "parallelism.offload out",
        )
    if optimization.torch_compile and parallelism.uses_deepspeed:
        yield Conflict(
            "optimization.torch_compile",
            f"optimization.torch_compile does not go with parallelism.strategy {strategy!r}: "
            'set torch_compile to false, or strategy to "ddp"',
        )


def best_conflicts(
    parallelism: ParallelismConfig, checkpoints: CheckpointsConfig
) -> Iterator[Conflict]:
    """Every way of keeping the best model that cannot work, with the way out."""
    if checkpoints.load_best_model_at_end and parallelism.splits_the_model:
        yield Conflict(
            "checkpoints.load_best_model_at_end",
            "checkpoints.load_best_model_at_end does not go with parallelism.strategy "
            f"{parallelism.strategy!r}, which takes the weights apart: set strategy to "
            '"ddp" or "zero2", or leave it out',
        )


def encoder_misfits(parallelism: ParallelismConfig, *, has_encoder: bool) -> Iterator[Misfit]:
    """Why a model cannot be shared in this way."""
    if parallelism.strategy == "fsdp" and has_encoder:
        yield Misfit(
            param="training.parallelism.strategy",
            message='strategy "fsdp" does not go with a model with an encoder, which shares its '
            "embedding with the decoder",
            remedy='set parallelism.strategy to "zero3", "zero2" or "ddp"',
        )


def _in_parts(strategy: str, model: ModelConfig) -> Iterator[Conflict]:
    if model.quantization is not None:
        yield Conflict(
            "model.quantization",
            f"model.quantization does not go with parallelism.strategy {strategy!r}, which takes "
            'the weights apart: set strategy to "ddp" or "zero2", or remove quantization',
        )
