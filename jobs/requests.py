"""What may be asked: the bodies of a new job and of a new base model, checked field by field.

OpenAI's names throughout; everything that training decides is in `training`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from training.config import Section, Text, TrainingConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,95}$")]
"""A name in the catalogue; a `:` would break the names of tuned models."""


class TrainingFile(Section):
    """One of several training files, drawn from in proportion to its weight."""

    file: Text
    weight: PositiveFloat = 1.0


class Resources(Section):
    """What the job runs on. `gpus` null: one slot, a GPU where the host has any, else its CPU."""

    pool: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "default"
    gpus: Annotated[int, Field(ge=0, le=1)] | None = None


class Limits(Section):
    """When a job is given up."""

    max_runtime_seconds: PositiveInt | None = None
    max_pending_seconds: PositiveInt | None = None


class Hyperparameters(Section):
    """OpenAI's three; `"auto"` leaves the choice to the server."""

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    learning_rate_multiplier: PositiveFloat | Literal["auto"] = "auto"


class Supervised(Section):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Section):
    """OpenAI's `method`; this server trains supervised."""

    type: Literal["supervised"]
    supervised: Supervised = Supervised()


class JobRequest(Section):
    """The body of `POST /v1/fine_tuning/jobs`."""

    model: Text
    training_file: Text | None = None
    training_files: Annotated[list[TrainingFile], Field(min_length=1, max_length=16)] | None = None
    validation_file: Text | None = None
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._ -]{1,64}$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[Text, Field(max_length=64)],
                Annotated[Text, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        None, description="Older spelling of method.supervised.hyperparameters."
    )
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None
    resources: Resources = Resources()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    limits: Limits = Limits()
    training: TrainingConfig = TrainingConfig()

    @field_validator("resources", "limits", "training", "priority", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:  # noqa: ANN401 - pydantic's hook
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def _one_spelling_of_the_files(self) -> Self:
        if (self.training_file is None) == (self.training_files is None):
            raise ValueError("give either training_file or training_files")
        return self

    @property
    def files(self) -> list[TrainingFile]:
        if self.training_files is not None:
            return self.training_files
        assert self.training_file is not None
        return [TrainingFile(file=self.training_file)]


class ModelRequest(Section):
    """The body of `POST /v1/models`: a folder on the workers, or a hub id with its revision."""

    name: Name
    source: Text = Field(description="An absolute path of a folder on the workers, or a hub id.")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        None, description="The commit a hub id is pinned to; none for a folder."
    )

    @model_validator(mode="after")
    def _a_hub_id_is_pinned(self) -> Self:
        if self.is_folder == (self.revision is not None):
            raise ValueError(
                "a folder has no revision; remove it"
                if self.is_folder
                else "a hub id needs the commit it is pinned to: give `revision` (40 hex digits), "
                "or the absolute path of a folder as `source`"
            )
        return self

    @property
    def is_folder(self) -> bool:
        return self.source.startswith("/")
