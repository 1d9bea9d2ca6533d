"""Every learning-rate schedule of transformers, and what `lr_scheduler_kwargs` may say. Light.

A test keeps the table equal to transformers' own list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from training.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, lt=1)]
Shape = Literal["linear", "cosine", "1-sqrt"]


class NoArguments(Section):
    """Nothing can be said to it."""


class Cycles(Section):
    num_cycles: PositiveFloat = 0.5


class Restarts(Section):
    num_cycles: PositiveInt = 1


class Polynomial(Section):
    lr_end: NonNegativeFloat = 1e-7
    power: PositiveFloat = 1.0


class InverseSqrt(Section):
    timescale: PositiveInt | None = None


class MinimumRate(Section):
    num_cycles: PositiveFloat = 0.5
    min_lr: NonNegativeFloat | None = None
    min_lr_rate: Share | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.min_lr is None) == (self.min_lr_rate is None):
            raise ValueError("it needs either min_lr or min_lr_rate")
        return self


class WarmupMinimumRate(MinimumRate):
    warmup_lr_rate: Share | None = None


class StableDecay(Section):
    num_decay_steps: PositiveInt
    warmup_type: Shape = "linear"
    decay_type: Shape = "cosine"
    min_lr_ratio: Share = 0
    num_cycles: PositiveFloat = 0.5


class Plateau(Section):
    factor: Factor = 0.1
    patience: NonNegativeInt = 10
    threshold: NonNegativeFloat = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: NonNegativeInt = 0
    min_lr: NonNegativeFloat = 0
    eps: NonNegativeFloat = 1e-8


class Greedy(Section):
    # transformers' own least rate of 1e-3 is above most rates that are trained with.
    min_lr: NonNegativeFloat
    max_lr: PositiveFloat = 1.0
    factor: Factor = 0.95
    patience: NonNegativeInt = 10
    threshold: NonNegativeFloat = 1e-6
    threshold_mode: Literal["rel", "abs"] = "abs"
    cooldown: NonNegativeInt = 0
    warmup: NonNegativeInt = 0
    eps: NonNegativeFloat = 1e-8
    smooth: bool = False
    window_size: PositiveInt = 50
    reset_start: PositiveInt = 500


@dataclass(frozen=True)
class Schedule:
    """A schedule of transformers.

    Attributes:
        arguments: What `lr_scheduler_kwargs` may hold, and has to.
        warms_up: Whether it has a warm-up.
        follows_loss: Whether it goes by the held-out loss, once an evaluation.
    """

    arguments: type[Section] = NoArguments
    warms_up: bool = True
    follows_loss: bool = False


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "linear": Schedule(),
        "cosine": Schedule(Cycles),
        "cosine_with_restarts": Schedule(Restarts),
        "polynomial": Schedule(Polynomial),
        "constant": Schedule(warms_up=False),
        "constant_with_warmup": Schedule(),
        "inverse_sqrt": Schedule(InverseSqrt),
        "reduce_lr_on_plateau": Schedule(Plateau, warms_up=False, follows_loss=True),
        "cosine_with_min_lr": Schedule(MinimumRate),
        "cosine_warmup_with_min_lr": Schedule(WarmupMinimumRate),
        "warmup_stable_decay": Schedule(StableDecay),
        "greedy": Schedule(Greedy, warms_up=False, follows_loss=True),
    }
)
