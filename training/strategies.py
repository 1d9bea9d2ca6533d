"""How the processes of a run share the model, in the words of HF's `TrainingArguments`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from training.config import TrainingConfig
from training.deepspeed_presets import deepspeed_config
from training.distributed import TIMEOUT, Crew
from training.failures import invalid_spec, unfit
from training.sharing_conflicts import encoder_misfits


def strategy_arguments(config: TrainingConfig, crew: Crew, *, has_idle: bool) -> dict[str, Any]:
    """What to add to the arguments of a run that needs nobody else.

    Args:
        config: Of the run.
        crew: Its processes.
        has_idle: Whether a trained weight may have no gradient.
    """
    parallelism = config.parallelism
    on_cpu = {"use_cpu": not torch.cuda.is_available()}
    match parallelism.strategy:
        case "none":
            return on_cpu
        case "ddp":
            return on_cpu | {
                "ddp_find_unused_parameters": has_idle,
                "ddp_broadcast_buffers": False,
                "ddp_timeout": int(TIMEOUT.total_seconds()),
            }
        case "fsdp":
            return {"fsdp": True, "fsdp_config": _fsdp(config)}
        case _:
            # Weights in 16 bits; DeepSpeed keeps float32 masters of those that are trained.
            return {
                **on_cpu,
                **_known_company(),
                "deepspeed": deepspeed_config(config, crew.size),
                "bf16": config.model.dtype == "bfloat16",
            }


def _known_company() -> dict[str, Any]:
    """Tell accelerate, which looks for GPUs only, of the other processes on CPUs."""
    if torch.cuda.is_available():
        return {}
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    PartialState(backend="gloo")
    return {"accelerator_config": {"use_configured_state": True}}


def _fsdp(config: TrainingConfig) -> dict[str, Any]:
    return {
        "version": 2,
        "reshard_after_forward": True,
        "cpu_offload": bool(config.parallelism.offload),
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
    }


@contextmanager
def in_parts_from_the_start(config: TrainingConfig, crew: Crew) -> Iterator[None]:
    """A block in which transformers loads a model in parts, if that is how it is to be trained."""
    if config.parallelism.strategy == "zero3":
        known = HfDeepSpeedConfig(deepspeed_config(config, crew.size))  # type: ignore[no-untyped-call]
        yield
        del known  # transformers itself keeps a weak reference only
    else:
        yield


def check_strategy(config: TrainingConfig, *, has_encoder: bool) -> None:
    """Refuse a way to share the model that it, or this machine, is not made for.

    Raises:
        RunError: Also on a CPU, where FSDP through transformers would quietly be DDP.
    """
    for misfit in encoder_misfits(config.parallelism, has_encoder=has_encoder):
        raise unfit(misfit)
    if config.parallelism.strategy == "fsdp" and not torch.cuda.is_available():
        raise invalid_spec(
            "fsdp needs GPUs, and this machine has none.",
            param="training.parallelism.strategy",
            remedy='Set training.parallelism.strategy to "ddp".',
        )
