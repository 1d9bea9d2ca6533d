"""How many processes train one model, and how they share it. Light."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from training.deepspeed_config import DeepSpeedConfig
from training.section import Conflict, Section

Strategy = Literal["none", "ddp", "zero2", "zero3", "fsdp"]
Offload = Literal["optimizer", "parameters"]
MAX_PROCESSES = 64
_STAGES = {"zero2": 2, "zero3": 3}
_OFFLOADS: dict[Strategy, tuple[set[Offload], ...]] = {
    "zero2": ({"optimizer"},),
    "zero3": ({"optimizer"}, {"parameters"}, {"optimizer", "parameters"}),
    "fsdp": ({"optimizer", "parameters"},),
}


class ParallelismConfig(Section):
    """How many processes train one model, and how they share it."""

    num_processes: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] | None = Field(
        None, description="None: one per GPU of the job, one where it has none."
    )
    strategy: Strategy = "none"
    offload: list[Offload] = Field(
        default=[], description="What is kept in the host's memory while it is not used."
    )
    deepspeed: DeepSpeedConfig | None = Field(
        None, description="A configuration of one's own in place of the preset of zero2 or zero3."
    )

    @field_validator("offload", mode="before")
    @classmethod
    def _offload_is_named(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError('name what is offloaded: ["optimizer"], ["parameters"] or both')  # noqa: TRY004 - pydantic's
        return value

    def _conflicts(self) -> Iterator[Conflict]:
        if self.strategy == "none" and self.count > 1:
            yield Conflict(
                "strategy",
                f"{self.count} processes need a way to share the model: set strategy to "
                '"ddp" (a whole model in each), "zero2", "zero3" or "fsdp"',
            )
        possible = _OFFLOADS.get(self.strategy, ())
        if self.offload and set(self.offload) not in possible:
            ways = " or ".join(str(sorted(way)) for way in possible)
            yield Conflict(
                "offload",
                f'strategy "{self.strategy}" cannot offload {" and ".join(self.offload)}: '
                + (f"set offload to {ways}" if ways else 'leave it out, or choose "zero3"'),
            )
        if self.deepspeed is not None:
            yield from self._deepspeed_conflicts(self.deepspeed)

    def _deepspeed_conflicts(self, deepspeed: DeepSpeedConfig) -> Iterator[Conflict]:
        stage = deepspeed.zero_optimization.stage
        if _STAGES.get(self.strategy) != stage:
            yield Conflict(
                "strategy",
                f"deepspeed says stage {stage}: set strategy to "
                f'"zero{stage}", or zero_optimization.stage to that of "{self.strategy}"'
                if self.strategy in _STAGES
                else f'deepspeed belongs to "zero2" and "zero3": set strategy to "zero{stage}"',
            )
        if self.offload:
            yield Conflict("offload", "deepspeed says itself what is offloaded: leave offload out")

    @property
    def count(self) -> int:
        """Processes; one where the number was left to a job that has no GPU."""
        return self.num_processes or 1

    @property
    def splits_the_model(self) -> bool:
        """Whether a process alone does not have all weights."""
        return self.strategy in {"zero3", "fsdp"}

    @property
    def uses_deepspeed(self) -> bool:
        return self.strategy in _STAGES

    @property
    def offloads(self) -> frozenset[str]:
        """What is offloaded, by either way to say so."""
        if self.deepspeed is None:
            return frozenset(self.offload)
        zero = self.deepspeed.zero_optimization
        places = {"optimizer": zero.offload_optimizer, "parameters": zero.offload_param}
        return frozenset(
            name for name, place in places.items() if place is not None and place.device == "cpu"
        )
