"""The services outside that may get a run's metrics as well, each in its own words. Light."""

from typing import Annotated

from pydantic import Field

from training.section import PLAIN, InWords, Section

_NOT_BLANK = r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$"
_TAG = r"^[A-Za-z0-9_/ -]{1,250}$"  # names with a full stop are MLflow's own, and ours


class WandbConfig(Section):
    """A run of Weights & Biases that gets the metrics as well, in W&B's own words."""

    project: Annotated[
        str,
        Field(pattern=r"^[^/\\#?,%:\x00-\x1f]{1,128}$"),
        InWords(r"1 to 128 characters, none of them one of /\#?,%:"),
    ]
    name: Annotated[str, Field(min_length=1, max_length=128), PLAIN] | None = None
    entity: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z0-9_-]{1,128}$"),
            InWords("1 to 128 letters, digits, - and _"),
        ]
        | None
    ) = None
    tags: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=64), PLAIN]], Field(max_length=64)
        ]
        | None
    ) = None


class MlflowConfig(Section):
    """A run of MLflow that gets the metrics as well, in MLflow's own words."""

    experiment: Annotated[
        str,
        Field(max_length=256, pattern=_NOT_BLANK),
        InWords("a line of 1 to 256 characters that is not blank"),
    ]
    name: (
        Annotated[
            str,
            Field(max_length=128, pattern=_NOT_BLANK),
            InWords("a line of 1 to 128 characters that is not blank"),
        ]
        | None
    ) = None
    tags: (
        Annotated[
            dict[
                Annotated[
                    str,
                    Field(pattern=_TAG),
                    InWords("named by 1 to 250 letters, digits, spaces, _, / and -"),
                ],
                Annotated[str, Field(max_length=5000), PLAIN],
            ],
            Field(max_length=64),
        ]
        | None
    ) = None
