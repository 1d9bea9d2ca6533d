"""DeepSpeed's configuration of a run: a preset by strategy and offload, or the one that was given.

No optimizer and no scheduler: those of `training.optimization` are built by the trainer. Every
number that DeepSpeed would have to guess is filled in, because ZeRO-3 reads the configuration
before there is a trainer to do so. Light.
"""

from collections.abc import Sequence
from typing import Any

from training.config import TrainingConfig

_CPU = {"device": "cpu", "pin_memory": True}


def deepspeed_config(config: TrainingConfig, num_processes: int) -> dict[str, Any]:
    """What to hand to DeepSpeed for a run of `num_processes`."""
    parallelism, optimization = config.parallelism, config.optimization
    chosen = (
        preset(parallelism.strategy, parallelism.offload)
        if parallelism.deepspeed is None
        else parallelism.deepspeed.as_given()
    )
    per_process = optimization.per_device_train_batch_size
    accumulated = optimization.gradient_accumulation_steps
    dtype = config.model.dtype
    return chosen | {
        "train_micro_batch_size_per_gpu": per_process,
        "gradient_accumulation_steps": accumulated,
        "train_batch_size": per_process * accumulated * num_processes,
        "gradient_clipping": optimization.max_grad_norm,
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": chosen.get("fp16", {}) | {"enabled": dtype == "float16"},
        "zero_allow_untested_optimizer": True,
    }


def preset(strategy: str, offload: Sequence[str] = ()) -> dict[str, Any]:
    """The ZeRO settings behind a name."""
    zero: dict[str, Any] = {
        "stage": {"zero2": 2, "zero3": 3}[strategy],
        "contiguous_gradients": True,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": "auto",
    }
    if strategy == "zero3":
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "sub_group_size": 1_000_000_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
        }
    else:
        zero |= {"allgather_partitions": True, "allgather_bucket_size": 200_000_000}
    if "optimizer" in offload:
        zero["offload_optimizer"] = dict(_CPU)
    if "parameters" in offload:
        zero["offload_param"] = dict(_CPU)
    return {"zero_optimization": zero}
