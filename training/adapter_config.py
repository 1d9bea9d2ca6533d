"""What is trained of a model. Light."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from training.section import PLAIN, Conflict, Section, Text
from training.weight_names import pattern_matcher

_PLAIN_STARTS = (True, "gaussian", "orthogonal")
_DECOMPOSING_STARTS = ("pissa", "olora", "loftq", "mica")
_FROM_DATA = ("eva", "corda", "lora_ga")
_FAST_PISSA = re.compile(r"pissa_niter_[0-9]{1,2}")


def _initialization(value: bool | str) -> bool | str:  # noqa: FBT001 - PEFT's own type
    if value in _PLAIN_STARTS or value in _DECOMPOSING_STARTS:
        return value
    if isinstance(value, str) and _FAST_PISSA.fullmatch(value):
        return value
    if value in _FROM_DATA:
        raise ValueError(f"{value!r} needs a pass over the data before training, which is not done")
    raise ValueError(
        "should be true, "
        f"{', '.join(map(repr, (*_PLAIN_STARTS[1:], *_DECOMPOSING_STARTS)))} or 'pissa_niter_N', "
        f"where N is the number of iterations, but is {value!r}"
    )


def _pattern(key: str) -> str:
    pattern_matcher(key)
    return key


Initialization = Annotated[bool | Text, AfterValidator(_initialization)]
Rank = Annotated[PositiveInt, Field(le=4096)]
Alpha = Annotated[float, Field(ge=1e-6, le=1e6)]
Pattern = Annotated[str, Field(min_length=1, max_length=256), PLAIN, AfterValidator(_pattern)]


class AdapterConfig(Section):
    """LoRA (arXiv:2106.09685), or full fine-tuning, which has to be asked for."""

    type: Literal["lora", "none"] = "lora"
    r: Rank = 16
    lora_alpha: Alpha = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = Field(
        False, description="Scaled by lora_alpha / sqrt(r) instead of lora_alpha / r."
    )
    use_dora: bool = Field(False, description="Magnitudes of their own (arXiv:2402.09353).")
    init_lora_weights: Initialization = Field(
        True, description="What the weights begin with; the result is a plain LoRA in any case."
    )
    loraplus_lr_ratio: Annotated[PositiveFloat, Field(le=1000)] | None = Field(
        None, description="Learning rate of lora_B over that of lora_A (arXiv:2402.12354)."
    )
    target_modules: Literal["all-linear"] | list[Text] = "all-linear"
    target_parameters: list[Text] = Field(
        default=[], description="Weights that are no layers, e.g. of experts."
    )
    layers_to_transform: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = Field(
        None, description="Numbers of the layers that target_modules is looked for in."
    )
    rank_pattern: dict[Pattern, Rank] = Field(
        default={}, description="Other ranks, by the name of the module as an expression."
    )
    alpha_pattern: dict[Pattern, Alpha] = Field(
        default={}, description="Other alphas, by the name of the module as an expression."
    )
    fan_in_fan_out: bool | None = Field(None, description="None: as the model stores its weights.")
    modules_to_save: list[Text] = Field(default=[])

    @property
    def decomposes(self) -> bool:
        """Whether the weights begin with a decomposition of the model's own."""
        return self.init_lora_weights not in _PLAIN_STARTS

    @property
    def splits_the_base(self) -> bool:
        """Whether the adapter begins with a part of the base, and the base without it."""
        return self.decomposes and self.init_lora_weights != "mica"

    @property
    def ranks(self) -> frozenset[int]:
        """Every rank that some module may get."""
        return frozenset({self.r, *self.rank_pattern.values()})

    def rank_of(self, module: str) -> int:
        """The rank of a module's adapter: that of the first pattern that fits, as PEFT does."""
        fitting = (r for key, r in self.rank_pattern.items() if pattern_matcher(key)(module))
        return next(fitting, self.r)

    def _conflicts(self) -> Iterator[Conflict]:
        if self.type == "none" and (unused := sorted({*self.changed()} - {"type"})):
            yield Conflict(
                unused[0],
                f'type "none" trains every weight and has no {", ".join(unused)}: '
                'remove them, or set type to "lora"',
            )
        if not self.target_modules and not self.target_parameters:
            yield Conflict(
                "target_modules",
                "target_modules names nothing: name modules, leave it out for all linear layers, "
                "or name target_parameters",
            )
        if self.init_lora_weights == "orthogonal" and (odd := [r for r in self.ranks if r % 2]):
            yield Conflict(
                "init_lora_weights",
                f'init_lora_weights "orthogonal" needs even ranks, and {odd[0]} is odd: '
                "choose an even rank, or init_lora_weights true",
            )
        if self.init_lora_weights == "mica" and self.use_dora:
            yield Conflict(
                "use_dora",
                'init_lora_weights "mica" freezes lora_B, which use_dora cannot do with: '
                "leave one of them out",
            )
        if self.init_lora_weights == "mica" and self.loraplus_lr_ratio is not None:
            yield Conflict(
                "loraplus_lr_ratio",
                'init_lora_weights "mica" freezes lora_B, whose rate loraplus_lr_ratio sets: '
                "leave one of them out",
            )
        for asked in self.not_for_parameters() if self.target_parameters else ():
            yield Conflict(
                "target_parameters",
                f"target_parameters does not go with {asked}: leave one of them out",
            )

    def not_for_parameters(self) -> list[str]:
        """What is asked for that PEFT cannot do with weights that are no layers."""
        start = self.init_lora_weights
        asked = {
            "lora_dropout": self.lora_dropout > 0,
            "use_dora": self.use_dora,
            f'init_lora_weights "{start}"': start not in {True, "gaussian"},
        }
        return [name for name, is_asked in asked.items() if is_asked]
