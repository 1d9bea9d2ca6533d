"""How rows become token sequences. Light."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from training.section import Conflict, Section, Text

Weight = Annotated[PositiveFloat, Field(le=1000)]
"""How often an epoch holds each row of a file; a fraction is that share of the rows, drawn."""

FORMAT_NAMES = ("messages", "sharegpt", "instruct", "prompt_completion", "text")
FormatName = Literal["messages", "sharegpt", "instruct", "prompt_completion", "text"]
ContainerName = Literal["jsonl", "json", "csv", "txt", "parquet", "arrow"]

TemplateName = Literal[
    "auto",
    "chatml",
    "alpaca",
    "alpaca_seq2seq",
    "vigogne_alpaca",
    "vigogne_chat_v2",
    "vigogne_chat_v3",
]

DEFAULT_MAX_LENGTH = 2048
MAX_BLOCK_SIZE = 2**20


class DataConfig(Section):
    """How rows become token sequences, and which of their tokens take loss."""

    format: FormatName | None = Field(None, description="None: as detected from the file.")
    template: TemplateName = Field("auto", description="auto: the model's own chat template.")
    default_system: Text | None = Field(
        None,
        description="The system message of rows without one, in training and for inference; "
        "None: the template's own.",
    )
    add_bos_token: bool | None = Field(
        None, description="None: where the tokenizer begins a text with one by itself."
    )
    max_length: Annotated[int, Field(ge=8)] | None = Field(
        None, description=f"Tokens of a row; None: {DEFAULT_MAX_LENGTH}, or the model's context."
    )
    min_length: NonNegativeInt = Field(0, description="Tokens; shorter rows are dropped.")
    overlong: Literal["drop", "truncate_end", "truncate_prompt", "split"] = Field(
        "drop", description="What is done with rows of more than max_length tokens."
    )
    max_dropped: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Share of the rows read that may be left out; with more the run fails."
    )
    max_train_rows: PositiveInt | None = Field(
        None, description="Only the first so many usable rows are trained on; None: all."
    )
    max_eval_rows: PositiveInt | None = Field(
        None,
        description="Only the first so many usable rows are held out or read for that; None: all.",
    )
    eval_split: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Share of the training rows that is held out when no file is given."
    )
    train_on: Literal["assistant", "last_assistant", "everything"] = "assistant"
    packing: bool = Field(False, description="Several rows in one block, kept apart by attention.")
    block_size: Annotated[int, Field(ge=8, le=MAX_BLOCK_SIZE)] | None = Field(
        None, description="packing: tokens of a block; None: max_length."
    )

    def limit(self, context_length: int) -> int:
        """Tokens of the longest row that is taken, for a model of that context."""
        if self.max_length is not None:
            return self.max_length
        longest = self.block_size if self.packing else None
        return min(longest or DEFAULT_MAX_LENGTH, context_length)

    def _conflicts(self) -> Iterator[Conflict]:
        longest = "block_size" if self.packing and self.max_length is None else "max_length"
        if self.min_length > (getattr(self, longest) or math.inf):
            yield Conflict(
                "min_length",
                f"min_length {self.min_length} is above {longest} {getattr(self, longest)}, so "
                f"that no row would be left: lower min_length, or raise {longest}",
            )
        if self.packing and (self.max_length or 0) > (self.block_size or math.inf):
            yield Conflict(
                "block_size",
                f"rows of max_length {self.max_length} have no room in blocks of block_size "
                f"{self.block_size}: lower max_length, or raise block_size",
            )
