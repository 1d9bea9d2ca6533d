"""What `python -m training export` reads: an export with every name resolved to a path. Light."""

import re
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from training.config import TrainingConfig
from training.data_config import FormatName
from training.export_config import ExportConfig
from training.section import Section, Text


class ExportSpec(Section):
    """An export, the folders it is made of, and what its card says of them."""

    export: ExportConfig
    model_path: Text | None = Field(
        None,
        description="The folder of the base, or of a model that was trained whole; None: an "
        "adapter with all that belongs to it is handed on as it is.",
    )
    adapter_path: Text | None = Field(None, description="None: the whole model was trained.")
    base_model: Text = Field(description="The catalogue's name of the model, for the card.")
    name: Text = Field(description="What was trained is called, for the card.")
    training: TrainingConfig = TrainingConfig()
    formats: list[FormatName] = Field(
        default=[], description="Of the training data: they decide the template."
    )
    step: NonNegativeInt | None = Field(
        None, description="Of a checkpoint, which has no tokenizer of its own; None: a result."
    )
    attempt: PositiveInt = 1

    @model_validator(mode="after")
    def _an_adapter_is_there(self) -> Self:
        if self.adapter_path is None and self.export.made == "adapter":
            raise ValueError(
                'every weight was trained, so that there is no adapter: ask for "merged"'
            )
        if self.model_path is None and (self.export.made != "adapter" or self.step is not None):
            raise ValueError("model_path is needed: this is made of the base model as well")
        return self

    @property
    def stem(self) -> str:
        """The name as that of a file."""
        return plain_stem(self.name)


def plain_stem(name: str) -> str:
    """What is left of a name in the name of a file."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")


class Pushed(Section):
    """Where on a hub an export is."""

    repo_id: Text
    revision: Text
    commit: Text
    url: Text
