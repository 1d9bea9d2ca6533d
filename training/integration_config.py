"""The services outside that may get a run's metrics as well, each in its own words. Light."""

from typing import Annotated

from pydantic import Field

from training.section import PLAIN, Section, Text

_NOT_BLANK = r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$"
_TAG = r"^[A-Za-z0-9_/ -]{1,250}$"  # names with a full stop are MLflow's own, and ours


class WandbConfig(Section):
    """A run of Weights & Biases that gets the metrics as well, in W&B's own words."""

    project: Annotated[Text, Field(pattern=r"^[^/\\#?,%:\x00-\x1f]{1,128}$")]
    name: Annotated[str, Field(min_length=1, max_length=128), PLAIN] | None = None
    entity: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None
    tags: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64), PLAIN]], Field(max_length=64)
        ]
        | None
    ) = None


class MlflowConfig(Section):
    """A run of MLflow that gets the metrics as well, in MLflow's own words."""

    experiment: Annotated[str, Field(max_length=256, pattern=_NOT_BLANK)]
    name: Annotated[str, Field(max_length=128, pattern=_NOT_BLANK)] | None = None
    tags: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=_TAG)],
                Annotated[str, Field(max_length=5000), PLAIN],
            ],
            Field(max_length=64),
        ]
        | None
    ) = None
