"""Steps, batches, optimiser and schedule. Light."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from training.misfit import Misfit
from training.optimizers import ADAM_KEYS, OPTIMIZERS, Optimizer
from training.schedules import SCHEDULES, Schedule
from training.section import Conflict, InWords, Section, Text

LORA_LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 2e-5
DEFAULT_WARMUP = 0.03

Argument = bool | int | float | Text
_Layer = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_.]+$"),
    InWords("a layer's name, of letters, digits, _ and ."),
]
_USABLE = sorted(name for name, each in OPTIMIZERS.items() if each.refused is None)


def _optimizer(name: str) -> str:
    if name not in OPTIMIZERS:
        raise ValueError(
            f"{name!r} is no optimizer of transformers; there are {', '.join(_USABLE)}"
        )
    if (reason := OPTIMIZERS[name].refused) is not None:
        raise ValueError(f'{name!r} {reason}: choose another one, e.g. "adamw_torch"')
    return name


def _schedule(name: str) -> str:
    if name not in SCHEDULES:
        raise ValueError(
            f"{name!r} is no schedule of transformers; there are {', '.join(SCHEDULES)}"
        )
    return name


def parse_arguments(text: str | None) -> dict[str, Argument]:
    """What transformers writes as `momentum=0.9,nesterov=true`."""
    pairs = [pair.partition("=") for pair in (text or "").replace(" ", "").split(",") if pair]
    return {name: _number_or_word(value) for name, _, value in pairs}


def _arguments(value: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
    return parse_arguments(value) if isinstance(value, str) else value


def _number_or_word(text: str) -> Argument:
    try:
        found = json.loads(text.lower())
    except ValueError:
        return text
    return found if isinstance(found, bool | int | float) else text


def _problems(
    key: str, arguments: type[Section], given: Mapping[str, Argument]
) -> Iterator[Conflict]:
    try:
        arguments.model_validate(given)
    except ValidationError as error:
        accepted = ", ".join(arguments.model_fields) or "none"
        for each in error.errors():
            place = ".".join((key, *map(str, each["loc"])))
            is_unknown = each["type"] == "extra_forbidden"
            words = each["msg"].removeprefix("Value error, ").removeprefix("Input ")
            what = "unknown" if is_unknown else words
            yield Conflict(place, f"{what}; it takes {accepted}")


SamplingStrategy = Literal["random", "group_by_length", "sequential"]


class OptimizationConfig(Section):
    """Steps, batches, optimiser and schedule."""

    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="None: chosen from the number of rows; see `automatic_epochs`."
    )
    max_steps: PositiveInt | None = Field(None, description="Overrides the epochs.")
    per_device_train_batch_size: PositiveInt = 8
    per_device_eval_batch_size: PositiveInt = 8
    gradient_accumulation_steps: PositiveInt = 1
    train_sampling_strategy: SamplingStrategy = Field(
        "random", description="Which rows come together: any, those of a length, or as they stand."
    )
    learning_rate: Annotated[PositiveFloat, Field(le=100)] | None = Field(
        None, description=f"None: {LORA_LEARNING_RATE} for LoRA, {FULL_LEARNING_RATE} for full."
    )
    lr_scheduler_type: Annotated[
        Text, AfterValidator(_schedule), Field(json_schema_extra={"enum": sorted(SCHEDULES)})
    ] = "cosine"
    lr_scheduler_kwargs: dict[Text, Argument] = Field(
        default={}, description="What the schedule takes, e.g. min_lr."
    )
    warmup_steps: NonNegativeFloat = Field(
        DEFAULT_WARMUP, description="A share of all steps below 1, a number of steps from 1 on."
    )
    optim: Annotated[
        Text, AfterValidator(_optimizer), Field(json_schema_extra={"enum": _USABLE})
    ] = "adamw_torch"
    optim_args: Annotated[dict[Text, Argument], BeforeValidator(_arguments)] = Field(
        default={}, description="What the optimizer takes beside the keys below, e.g. momentum."
    )
    optim_target_modules: (
        Literal["all-linear"] | Annotated[list[_Layer], Field(min_length=1)] | None
    ) = Field(None, description="Linear layers that GaLore and APOLLO project.")
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[PositiveFloat, Field(le=1)] = 1e-8
    weight_decay: Annotated[NonNegativeFloat, Field(le=100)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    neftune_noise_alpha: PositiveFloat | None = Field(
        None, description="Noise on the embeddings while training (arXiv:2310.05914)."
    )
    gradient_checkpointing: bool = True
    torch_compile: bool = False

    @property
    def optimizer(self) -> Optimizer:
        return OPTIMIZERS[self.optim]

    @property
    def schedule(self) -> Schedule:
        return SCHEDULES[self.lr_scheduler_type]

    @property
    def _warms_up(self) -> bool:
        return self.schedule.warms_up or self.optimizer.averages

    def num_warmup_steps(self, num_steps: int) -> int:
        """Of a run of `num_steps`."""
        if not self._warms_up:
            return 0
        # Rounded down: the first step of a warm-up has a rate of 0, which a short run cannot spare.
        share = self.warmup_steps
        return int(share * num_steps) if share < 1 else int(share)

    @property
    def num_decay_steps(self) -> int:
        """At the end of a run, where the schedule counts them."""
        return int(self.lr_scheduler_kwargs.get("num_decay_steps", 0))

    def length_misfits(self, num_steps: int) -> Iterator[Misfit]:
        """What does not fit into a run of so many steps."""
        before, after = self.num_warmup_steps(num_steps), self.num_decay_steps
        if before + after > num_steps:
            key = "lr_scheduler_kwargs" if after else "warmup_steps"
            yield Misfit(
                param=f"training.optimization.{key}",
                message=f"the steps of the run, {num_steps}, are fewer than the {before} of its "
                + (f"warm-up and the {after} of its decay together" if after else "warm-up"),
                remedy="lower warmup_steps or num_decay_steps, or train longer",
            )
        elif before == num_steps == 1:
            yield Misfit(
                param="training.optimization.warmup_steps",
                message="the run has one step, which is that of its warm-up, whose rate is 0",
                remedy="set warmup_steps to 0, or train longer",
            )

    def _idle_adam_keys(self) -> Iterator[Conflict]:
        for key in self.changed():
            if key in ADAM_KEYS and key not in self.optimizer.adam_keys:
                yield Conflict(
                    key,
                    f"optim {self.optim!r} does not go by {key}: leave it out, or choose "
                    '"adamw_torch"',
                )

    def _conflicts(self) -> Iterator[Conflict]:
        optimizer, schedule = self.optimizer, self.schedule
        if self.warmup_steps >= 1 and not float(self.warmup_steps).is_integer():
            yield Conflict(
                "warmup_steps", "warmup_steps is a share below 1 or a whole number of steps"
            )
        yield from self._idle_adam_keys()
        yield from _problems("optim_args", optimizer.arguments, self.optim_args)
        yield from _problems("lr_scheduler_kwargs", schedule.arguments, self.lr_scheduler_kwargs)
        if optimizer.projects and self.optim_target_modules is None:
            yield Conflict(
                "optim_target_modules",
                f'optim {self.optim!r} needs optim_target_modules, e.g. "all-linear"',
            )
        if not optimizer.projects and self.optim_target_modules is not None:
            yield Conflict(
                "optim_target_modules",
                f"optim_target_modules is for GaLore and APOLLO, which {self.optim!r} is not",
            )
        if optimizer.averages and self.lr_scheduler_type != "constant":
            yield Conflict(
                "lr_scheduler_type",
                f'optim {self.optim!r} is its own schedule: set lr_scheduler_type to "constant"',
            )
        if self.max_steps is not None:
            for misfit in self.length_misfits(self.max_steps):
                yield Conflict(misfit.param.rpartition(".")[2], str(misfit))
        if not self._warms_up and self.warmup_steps not in {0, DEFAULT_WARMUP}:
            yield Conflict(
                "warmup_steps",
                f"lr_scheduler_type {self.lr_scheduler_type!r} has no warm-up: set warmup_steps "
                'to 0, or choose "constant_with_warmup"',
            )
