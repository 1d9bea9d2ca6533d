"""What may be asked: the bodies of a new job and of a new base model, checked field by field.

OpenAI's names throughout; everything that training decides is in `training`.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from training.config import TrainingConfig
from training.data_config import Weight
from training.export_config import ExportConfig
from training.integration_config import MlflowConfig, WandbConfig
from training.parallelism_config import MAX_PROCESSES
from training.section import PLAIN, InWords, Section, Text

Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,95}$"),
    InWords("1 to 96 letters, digits, ., _, / and -, the first a letter or a digit"),
]
"""A name in the catalogue; a `:` would break the names of tuned models."""


Purpose = Literal["fine-tune", "assistants", "batch", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
EXPIRY_SECONDS = 3_600, 2_592_000
"""The least and the most after which a file may expire: an hour, thirty days."""


class TrainingFile(Section):
    """One of several training files, and how often an epoch holds each of its rows."""

    file: Text
    weight: Weight = 1.0


class Resources(Section):
    """What the job runs on. `gpus` null: one for each process, and one process takes a CPU, too."""

    pool: Annotated[
        str,
        Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"),
        InWords("1 to 63 small letters, digits and -, the first no -"),
    ] = "default"
    gpus: Annotated[int, Field(ge=0, le=MAX_PROCESSES)] | None = None


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


class WandbIntegration(Section):
    """Weights & Biases gets the job's metrics as well."""

    type: Literal["wandb"]
    wandb: WandbConfig


class MlflowIntegration(Section):
    """MLflow gets the job's metrics as well."""

    type: Literal["mlflow"]
    mlflow: MlflowConfig


_INTEGRATIONS = {"wandb": WandbIntegration, "mlflow": MlflowIntegration}


def _integration_kind(value: Any) -> str | None:  # noqa: ANN401 - pydantic's hook
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _INTEGRATIONS[kind].__name__ if isinstance(kind, str) and kind in _INTEGRATIONS else None


# The names of the members are no keys of theirs: a complaint's place passes them over.
Integration = Annotated[
    Annotated[WandbIntegration, Tag("WandbIntegration")]
    | Annotated[MlflowIntegration, Tag("MlflowIntegration")],
    Discriminator(
        _integration_kind,
        custom_error_type="integration_type",
        custom_error_message="Input should have one of these as its type: "
        + ", ".join(_INTEGRATIONS),
    ),
]
"""Another service that gets the job's metrics."""


class JobRequest(Section):
    """The body of `POST /v1/fine_tuning/jobs`."""

    model: Text
    training_file: Text | None = None
    training_files: Annotated[list[TrainingFile], Field(min_length=1, max_length=16)] | None = None
    validation_file: Text | None = None
    suffix: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z0-9._ -]{1,64}$"),
            InWords("1 to 64 letters, digits, spaces, ., _ and -"),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64), PLAIN],
                Annotated[str, Field(max_length=512), PLAIN],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        None, description="Older spelling of method.supervised.hyperparameters."
    )
    integrations: Annotated[list[Integration], Field(max_length=len(_INTEGRATIONS))] | None = None
    resources: Resources = Resources()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    limits: Limits = Limits()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _trackers_are_integrations(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic's hook
        return _without_integrations(value) if isinstance(value, dict) else value

    @field_validator("resources", "limits", "training", "priority", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:  # noqa: ANN401 - pydantic's hook
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("integrations")
    @classmethod
    def _each_once(cls, value: list[Integration] | None) -> list[Integration] | None:
        kinds: list[str] = [each.type for each in value or ()]
        if twice := [kind for kind in _INTEGRATIONS if kinds.count(kind) > 1]:
            raise ValueError(f"{twice[0]} is given twice; each type is taken at most once")
        return value

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


def _without_integrations(body: dict[str, Any]) -> dict[str, Any]:
    """`body` without those names in `report_to` that its `integrations` say more about."""
    training, integrations = body.get("training"), body.get("integrations")
    if not isinstance(training, dict) or not isinstance(integrations, list):
        return body
    # Nothing is checked yet: what should be a name may be an object, which no set takes.
    named = [each.get("type") for each in integrations if isinstance(each, dict)]

    def thinned(holder: dict[str, Any]) -> dict[str, Any]:
        listed = holder.get("report_to")
        if not isinstance(listed, list | str):
            return holder
        names = [listed] if isinstance(listed, str) else listed
        return {**holder, "report_to": [name for name in names if name not in named]}

    training = thinned(training)
    if isinstance(reporting := training.get("reporting"), dict):
        training = {**training, "reporting": thinned(reporting)}
    return {**body, "training": training}


class ExportRequest(ExportConfig):
    """The body of `POST /v1/fine_tuning/jobs/{job_id}/exports`."""

    checkpoint: Text | None = Field(None, description="Its id; null: the job's result.")

    @property
    def config(self) -> ExportConfig:
        return ExportConfig.model_validate(self.model_dump(exclude={"checkpoint"}))


class ModelRequest(Section):
    """The body of `POST /v1/models`: a folder on the workers, or a hub id with its revision."""

    name: Name
    source: Text = Field(description="An absolute path of a folder on the workers, or a hub id.")
    revision: (
        Annotated[str, Field(pattern=r"^[0-9a-f]{40}$"), InWords("a commit, 40 hex digits")] | None
    ) = Field(None, description="The commit a hub id is pinned to; none for a folder.")

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


class ExpiresAfter(Section):
    """When a file goes by itself."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=EXPIRY_SECONDS[0], le=EXPIRY_SECONDS[1])]


class UploadRequest(Section):
    """The body of `POST /v1/uploads`: the file that will come in parts."""

    bytes: PositiveInt = Field(description="Of the whole file.")
    filename: Text
    mime_type: Annotated[str, Field(min_length=1, max_length=255), PLAIN]
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class CompletionRequest(Section):
    """The body of `POST /v1/uploads/{upload_id}/complete`."""

    part_ids: Annotated[list[Text], Field(min_length=1)] = Field(
        description="The parts in the order of their bytes in the file."
    )
    md5: (
        Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$"), InWords("32 hexadecimal digits")] | None
    ) = Field(None, description="Of the whole file, in hexadecimal digits.")
