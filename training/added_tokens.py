"""Tokens that a job adds to a model's vocabulary, and the room for them in the model.

The ids of tokens that were not in the vocabulary are those whose rows have to be learnt. They come
next after the last one there was, so that the same job adds the same ids wherever it runs. Models
often have more rows than tokens: then nothing is resized.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from training.model_config import ModelConfig

_KNOWN_TO_MODELS = ("bos_token", "eos_token", "pad_token")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with what was added to it.

    Attributes:
        new_ids: Of tokens that the model has never seen.
        roles: What a model's configuration has to say of the special ones, e.g. `pad_token_id`.
    """

    tokenizer: PreTrainedTokenizerBase
    new_ids: tuple[int, ...] = ()
    roles: Mapping[str, int] = field(default_factory=dict)


def extended(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> Vocabulary:
    """`tokenizer` itself, with the tokens that `config` adds."""
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in config.add_tokens])
    special = dict[str, Any](config.add_special_tokens)
    tokenizer.add_special_tokens({name: _special(value) for name, value in special.items()})
    new_ids = tuple(range(before, len(tokenizer)))
    return Vocabulary(tokenizer, new_ids, roles_of(tokenizer, config))


def roles_of(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> dict[str, int]:
    """`Vocabulary.roles` of a tokenizer that has the tokens of `config` already."""
    names = (f"{n}_id" for n in _KNOWN_TO_MODELS if n in dict[str, Any](config.add_special_tokens))
    return {name: getattr(tokenizer, name) for name in names}


def make_room(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Give the model a row for every token, like the mean of those it has, if it needs more.

    Seeds are set before, for the new rows differ a little from each other.
    """
    rows = cast("Tensor", model.get_input_embeddings().weight)
    if len(vocabulary.tokenizer) > len(rows):
        model.resize_token_embeddings(len(vocabulary.tokenizer))
    for name, token_id in vocabulary.roles.items():
        setattr(model.config.get_text_config(), name, token_id)


def _special(value: object) -> AddedToken | list[AddedToken]:
    if isinstance(value, list):
        return [AddedToken(text, normalized=False, special=True) for text in value]
    return AddedToken(str(value), normalized=False, special=True)
