"""What the training process reads: a configuration with every name resolved to a path. Light."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PositiveInt

from training.combinations import no_loss_to_follow
from training.config import TrainingConfig
from training.data_config import FormatName, Weight
from training.integration_config import MlflowConfig, WandbConfig
from training.section import Conflict, Section, Text


class DatasetSource(Section):
    """A data file on this machine."""

    path: Text
    format: FormatName
    weight: Weight = 1.0


class StartSource(Section):
    """The folder of an adapter on this machine that training goes on from, and its name."""

    path: Text
    name: Text


class PreparedFolder(Section):
    """A folder of prepared data that the runs of a host share, and the most it may hold."""

    path: Text
    max_bytes: PositiveInt


class RunSpec(Section):
    """What the training process reads: a configuration with every name resolved to a local path."""

    training: TrainingConfig
    model_path: Text
    base_model: Text = Field(description="The catalogue's name of the model, for the card.")
    start: StartSource | None = None
    training_files: Annotated[list[DatasetSource], Field(min_length=1)]
    validation_files: list[DatasetSource] = Field(default=[])
    prepared: PreparedFolder | None = Field(
        None, description="None: prepared data is kept in the run directory."
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None
    name: Text = Field("adapter", description="What the result is called, for the card.")
    attempt: PositiveInt = 1

    def _conflicts(self) -> Iterator[Conflict]:
        asked, validates = self.training, bool(self.validation_files)
        if reason := no_loss_to_follow(asked.optimization, asked.data, validates=validates):
            yield Conflict("training.optimization.lr_scheduler_type", reason)
        if self.start is not None and self.training.adapter.type == "none":
            yield Conflict(
                "start",
                "start is an adapter, which full fine-tuning does not have: "
                'set training.adapter.type to "lora", or remove start',
            )
