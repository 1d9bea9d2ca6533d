"""A DeepSpeed configuration of one's own, checked key by key; light, so that the API refuses it.

Left out on purpose are sections that would override `training.optimization` (DeepSpeed's optimizer
and scheduler win over ours without a word), that write to paths of the worker, or that report
elsewhere. Keys that repeat ours take `"auto"` only. Names: https://www.deepspeed.ai/docs/config-json
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from training.section import CONFLICT, Conflict, Section, complaint

_OURS = {
    "optimizer": "training.optimization.optim",
    "scheduler": "training.optimization.lr_scheduler_type",
    "tensorboard": "training.reporting.report_to",
    "wandb": "integrations",
}


def _whole(value: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
    """DeepSpeed's own examples write 5e8, which JSON reads as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Auto = Literal["auto"]
Count = Annotated[NonNegativeInt, BeforeValidator(_whole)]
CountOrAuto = Annotated[NonNegativeInt | Auto, BeforeValidator(_whole)]
Device = Literal["cpu", "none"]


class OffloadOptimizer(Section):
    """Where the optimizer's state lies; `nvme` would need a path of the worker."""

    device: Device
    pin_memory: bool | None = None
    ratio: Annotated[float, Field(ge=0, le=1)] | None = None


class OffloadParam(Section):
    """Where the parameters lie while they are not used; `nvme` would need a path of the worker."""

    device: Device
    pin_memory: bool | None = None
    buffer_count: Count | None = None
    buffer_size: Count | None = None
    max_in_cpu: Count | None = None


class ZeroOptimization(Section):
    """DeepSpeed's `zero_optimization`."""

    stage: Literal[2, 3]
    contiguous_gradients: bool | None = None
    overlap_comm: bool | None = None
    reduce_scatter: bool | None = None
    reduce_bucket_size: CountOrAuto | None = None
    allgather_partitions: bool | None = None
    allgather_bucket_size: CountOrAuto | None = None
    round_robin_gradients: bool | None = None
    ignore_unused_parameters: bool | None = None
    sub_group_size: Count | None = None
    offload_optimizer: OffloadOptimizer | None = None
    offload_param: OffloadParam | None = None
    stage3_prefetch_bucket_size: CountOrAuto | None = None
    stage3_param_persistence_threshold: CountOrAuto | None = None
    stage3_model_persistence_threshold: Count | None = None
    stage3_max_live_parameters: Count | None = None
    stage3_max_reuse_distance: Count | None = None
    stage3_gather_16bit_weights_on_model_save: bool | None = None
    zero_hpz_partition_size: PositiveInt | None = None
    zero_quantized_weights: bool | None = None
    zero_quantized_gradients: bool | None = None
    memory_efficient_linear: bool | None = None


class Bf16(Section):
    enabled: Auto = "auto"


class Fp16(Section):
    enabled: Auto = "auto"
    loss_scale: Annotated[float, Field(ge=0)] | None = None
    loss_scale_window: PositiveInt | None = None
    initial_scale_power: NonNegativeInt | None = None
    hysteresis: PositiveInt | None = None
    min_loss_scale: PositiveFloat | None = None


class DeepSpeedConfig(Section):
    """What may be given instead of a preset."""

    zero_optimization: ZeroOptimization
    bf16: Bf16 | None = None
    fp16: Fp16 | None = None
    gradient_clipping: Auto | None = None
    gradient_accumulation_steps: Auto | None = None
    train_batch_size: Auto | None = None
    train_micro_batch_size_per_gpu: Auto | None = None
    communication_data_type: Literal["fp16", "bf16", "fp32"] | None = None
    prescale_gradients: bool | None = None
    gradient_predivide_factor: PositiveFloat | None = None
    zero_allow_untested_optimizer: bool | None = None
    zero_force_ds_cpu_optimizer: bool | None = None
    steps_per_print: PositiveInt | None = None
    wall_clock_breakdown: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_no_second_home(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
        if isinstance(value, str):
            # A ValueError is what pydantic tells the owner of the job.
            raise ValueError("give the DeepSpeed configuration itself, an object, not a path")  # noqa: TRY004
        for key in _OURS.keys() & value.keys() if isinstance(value, dict) else ():
            words = f"{key} would override {_OURS[key]}: set that instead, and leave {key} out"
            raise complaint(CONFLICT, (key,), words, value[key])
        return value

    def _conflicts(self) -> Iterator[Conflict]:
        if self.zero_allow_untested_optimizer is False:
            yield Conflict(
                "zero_allow_untested_optimizer",
                "zero_allow_untested_optimizer is true here, for the optimizer is one that "
                "DeepSpeed did not make: set it to true, or leave it out",
            )

    def as_given(self) -> dict[str, Any]:
        """The keys that were given, as DeepSpeed reads them."""
        return self.model_dump(exclude_none=True)
