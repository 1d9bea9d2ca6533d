"""What is saved, measured and sent while a run goes on. Light."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from training.section import Conflict, Section, Text


class CheckpointsConfig(Section):
    """When the state is saved so that a run can be resumed, and how many are kept."""

    save_steps: PositiveInt = 100
    keep: PositiveInt = 3
    load_best_model_at_end: bool = Field(
        default=False, description="The result is the model of the lowest held-out loss."
    )


class EvaluationConfig(Section):
    """What is measured on held-out rows, and when it ends the run."""

    eval_steps: PositiveInt = 100
    eval_on_start: bool = Field(default=False, description="Evaluate before the first step, too.")
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Evaluations without a better loss after which training stops."
    )
    sample_prompts: Annotated[list[Text], Field(max_length=8)] = Field(
        default=[], description="Prompts answered at each evaluation, to read along."
    )
    sample_max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 64

    def _conflicts(self) -> Iterator[Conflict]:
        if "sample_max_new_tokens" in self.changed() and not self.sample_prompts:
            yield Conflict(
                "sample_max_new_tokens",
                "sample_max_new_tokens is the length of answers to sample_prompts, and there are "
                "none: give some, or leave it out",
            )


class ReportingConfig(Section):
    """How often metrics are sent, and to which trackers beside the job's own events."""

    logging_steps: PositiveInt = 10
    report_to: list[Literal["tensorboard"]] = Field(default=["tensorboard"])
