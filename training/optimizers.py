"""Every optimiser of transformers: what it takes, what it needs, or why it is refused. Light.

A test keeps the table equal to transformers' own list. Refused are those whose state a checkpoint
does not bring back, so that a run could not go on, and those for hardware that is not ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from training.section import Section

ADAM_KEYS = ("adam_beta1", "adam_beta2", "adam_epsilon")
_BETAS = ADAM_KEYS[:2]
Beta = Annotated[float, Field(ge=0, lt=1)]


class NoArguments(Section):
    """Nothing can be said to it."""


class Sgd(Section):
    momentum: Beta = 0
    dampening: Beta = 0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_looks_ahead(self) -> Self:
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("nesterov needs a momentum, and no dampening")
        return self


class Adagrad(Section):
    lr_decay: NonNegativeFloat = 0
    eps: PositiveFloat = 1e-10


class EightBitRmsprop(Section):
    momentum: Beta = 0
    alpha: Beta = 0.99
    eps: PositiveFloat = 1e-8


class Rmsprop(EightBitRmsprop):
    centered: bool = False


class AdEmaMix(Section):
    beta3: Beta = 0.9999
    alpha: NonNegativeFloat = 5
    t_alpha: PositiveInt | None = None
    t_beta3: PositiveInt | None = None


class TorchAo(Section):
    block_size: PositiveInt = 256
    bf16_stochastic_round: bool = False


class ScheduleFree(Section):
    weight_lr_power: NonNegativeFloat = 2
    r: NonNegativeFloat = 0


class StableAdamW(Section):
    max_lr: PositiveFloat | None = None
    kahan_sum: bool | None = None
    decouple_lr: bool = False


class GaLore(Section):
    rank: PositiveInt = 128
    update_proj_gap: PositiveInt = 200
    scale: PositiveFloat = 0.25
    proj_type: Literal["std", "reverse_std", "right", "left", "full"] = "std"


class Apollo(Section):
    rank: PositiveInt = 128
    update_proj_gap: PositiveInt = 200
    scale: PositiveFloat = 1.0
    proj_type: Literal["std", "right", "left"] = "std"
    proj: Literal["random", "svd"] = "random"
    scale_type: Literal["channel", "tensor"] = "channel"


@dataclass(frozen=True)
class Optimizer:
    """An optimiser of transformers.

    Attributes:
        arguments: What `optim_args` may hold.
        adam_keys: Which of `ADAM_KEYS` it goes by.
        package: What it needs beside our own dependencies, as it is imported.
        needs_cuda: Whether it needs a GPU.
        projects: Whether it goes by `optim_target_modules`, and is for whole weights.
        averages: Whether it makes the schedule itself, and what it trains is not what it gives.
        refused: Why it cannot be used.
    """

    arguments: type[Section] = NoArguments
    adam_keys: tuple[str, ...] = ADAM_KEYS
    package: str | None = None
    needs_cuda: bool = False
    projects: bool = False
    averages: bool = False
    refused: str | None = None


_LAYERWISE = Optimizer(
    refused="keeps its state where no checkpoint has it, so that no run could go on"
)
_LOMO = Optimizer(
    refused="changes the weights while it goes back through them, without accumulation, clipping "
    "or a state in the checkpoint"
)
_GALORE = Optimizer(GaLore, (), package="galore_torch", projects=True)
_SCHEDULE_FREE = Optimizer(ScheduleFree, package="schedulefree", averages=True)

OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType(
    {
        "adamw_torch": Optimizer(),
        "adamw_torch_fused": Optimizer(),
        "adafactor": Optimizer(adam_keys=()),
        "sgd": Optimizer(Sgd, ()),
        "adagrad": Optimizer(Adagrad, ()),
        "rmsprop": Optimizer(Rmsprop, ()),
        **dict.fromkeys(
            ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"), Optimizer()
        ),
        **dict.fromkeys(
            ("lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"),
            Optimizer(adam_keys=_BETAS),
        ),
        **dict.fromkeys(
            ("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"),
            Optimizer(AdEmaMix),
        ),
        **dict.fromkeys(
            ("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
            Optimizer(EightBitRmsprop, ()),
        ),
        "adamw_torch_4bit": Optimizer(TorchAo, package="torchao"),
        "adamw_torch_8bit": Optimizer(TorchAo, package="torchao"),
        "schedule_free_radam": _SCHEDULE_FREE,
        "schedule_free_adamw": _SCHEDULE_FREE,
        "schedule_free_sgd": replace(_SCHEDULE_FREE, adam_keys=()),
        "stable_adamw": Optimizer(StableAdamW, package="optimi"),
        "galore_adamw": _GALORE,
        "galore_adafactor": _GALORE,
        "galore_adamw_8bit": Optimizer(
            GaLore, (), package="galore_torch", projects=True, needs_cuda=True
        ),
        "apollo_adamw": Optimizer(Apollo, package="apollo_torch", projects=True),
        "galore_adamw_layerwise": _LAYERWISE,
        "galore_adamw_8bit_layerwise": _LAYERWISE,
        "galore_adafactor_layerwise": _LAYERWISE,
        "apollo_adamw_layerwise": _LAYERWISE,
        "lomo": _LOMO,
        "adalomo": _LOMO,
        "grokadamw": Optimizer(
            refused="does not find its state again in a checkpoint, so that no run could go on"
        ),
        "adamw_anyprecision": Optimizer(
            refused="needs torchdistx, which is not made for this torch any more"
        ),
        "adamw_torch_xla": Optimizer(refused="is for XLA devices"),
        "adamw_torch_npu_fused": Optimizer(refused="is for Ascend NPUs"),
    }
)
PACKAGES = frozenset(filter(None, (optimizer.package for optimizer in OPTIMIZERS.values())))
"""What a host may have beside our own dependencies."""
