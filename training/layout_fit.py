"""What a configuration asks of rows and templates, and this kind of model cannot do. Light.

The API asks this of the facts in the catalogue, the training process of the tokenizer it has
loaded. Every sentence ends with the way out, behind a semicolon.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass

from training.data_config import DataConfig, FormatName
from training.formats import FORMATS
from training.misfit import Misfit

SEQ2SEQ_TEMPLATE = "alpaca_seq2seq"
NAMES = "alpaca, chatml, vigogne_alpaca, vigogne_chat_v2 or vigogne_chat_v3"
UNTEMPLATED = frozenset({"prompt_completion", "text"})
_DATA = "training.data"


@dataclass(frozen=True)
class Kind:
    """What of a model decides how its rows may be written.

    Attributes:
        has_encoder: It reads with an encoder and answers with a decoder.
        has_template: It has a chat template of its own.
    """

    has_encoder: bool
    has_template: bool


def layout_misfits(data: DataConfig, formats: Set[FormatName], kind: Kind) -> Iterator[Misfit]:
    """Every reason why rows of these formats cannot be written for such a model as asked.

    Args:
        data: What is asked.
        formats: Of the files, as far as they are known.
        kind: Of the model.
    """
    if kind.has_encoder:
        yield from _with_an_encoder(data, formats)
    else:
        yield from _without_an_encoder(data, formats, kind)
    has_turns = bool(formats - UNTEMPLATED)
    if has_turns and data.template == "auto" and kind.has_template:
        yield from _with_its_own_template(data)


def idle_misfits(data: DataConfig, formats: Set[FormatName]) -> Iterator[Misfit]:
    """Every key that would quietly do nothing, because no row is written in a layout.

    Args:
        data: What is asked.
        formats: Of all files.
    """
    if not formats or formats - UNTEMPLATED:
        return
    asked = {
        "default_system": (data.default_system is not None, "have no system message"),
        "template": (data.template != "auto", "stand as they are, in no layout"),
        "train_on": (data.train_on == "last_assistant", "have no turns"),
    }
    for key, (is_asked, words) in asked.items():
        if is_asked:
            yield Misfit(
                param=f"{_DATA}.{key}",
                message=f"prompts and completions, and plain texts, {words}",
                remedy=f"remove {_DATA}.{key}, or send messages or instructions",
            )


def _with_its_own_template(data: DataConfig) -> Iterator[Misfit]:
    if data.add_bos_token is not None:
        yield Misfit(
            param=f"{_DATA}.add_bos_token",
            message="the model's own chat template decides whether a text begins with a token "
            "for that",
            remedy=f"remove {_DATA}.add_bos_token, or name a {_DATA}.template",
        )


def _without_an_encoder(data: DataConfig, formats: Set[FormatName], kind: Kind) -> Iterator[Misfit]:
    has_chats = any(FORMATS[format].is_chat for format in formats)
    if data.template == SEQ2SEQ_TEMPLATE:
        yield Misfit(
            param=f"{_DATA}.template",
            message=f"{SEQ2SEQ_TEMPLATE} is a layout for models with an encoder, which this one "
            "has not",
            remedy=f"set {_DATA}.template to {NAMES}",
        )
    elif data.template == "auto" and has_chats and not kind.has_template:
        yield Misfit(
            param=f"{_DATA}.template",
            message="the model has no chat template of its own",
            remedy=f"set {_DATA}.template to {NAMES}",
        )


def _with_an_encoder(data: DataConfig, formats: Set[FormatName]) -> Iterator[Misfit]:
    if data.template not in {"auto", SEQ2SEQ_TEMPLATE}:
        yield Misfit(
            param=f"{_DATA}.template",
            message=f"{data.template} is a layout for models without an encoder, and this one has "
            "one",
            remedy=f"set {_DATA}.template to {SEQ2SEQ_TEMPLATE}, or to auto",
        )
    if data.packing:
        yield Misfit(
            param=f"{_DATA}.packing",
            message="an encoder would read all rows of a block as one",
            remedy=f"set {_DATA}.packing to false",
        )
    if "text" in formats:
        yield Misfit(
            param=f"{_DATA}.format",
            message="a plain text has nothing for the encoder to read",
            remedy="send prompts and completions, or choose a model without an encoder",
        )
    if data.train_on == "everything":
        yield Misfit(
            param=f"{_DATA}.train_on",
            message="what an encoder reads takes no loss",
            remedy=f"set {_DATA}.train_on to assistant",
        )
    if data.overlong == "split":
        yield Misfit(
            param=f"{_DATA}.overlong",
            message="a part of an answer has nothing for the encoder to read",
            remedy=f"set {_DATA}.overlong to drop, truncate_end or truncate_prompt",
        )
