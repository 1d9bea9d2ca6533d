"""A tokenizer in GGUF's words: its tokens and their types, its merges or scores, how it cuts text.

llama.cpp knows a fixed set of ways to cut text before merging; what cuts it in another way would
read a prompt as other tokens than the model was trained on, and is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from training.failures import RunError, invalid_spec

Json = dict[str, Any]

_SPLITS: Mapping[str, str] = MappingProxyType(
    {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    }
)
"""The patterns of Llama 3 and of Qwen 2, by llama.cpp's names for them."""
_SPACE = "\u2581"
"""What sentencepiece writes for a space."""
_UNUSED = "[PAD{}]"
_LOWEST_SCORE = -1e9


@dataclass(frozen=True)
class GgufTokenizer:
    """A tokenizer as a GGUF file describes it.

    Attributes:
        model: `gpt2` for byte-level BPE, `llama` for sentencepiece.
        pre: llama.cpp's name of how text is cut before merging.
        tokens: By id, as many as the model has rows.
        types: What each token is.
        merges: Of byte-level BPE, the most frequent pair first.
        scores: Of sentencepiece; the highest merges first.
        adds_space: Whether a space is put before a text.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    adds_space: bool

    def add_to(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.adds_space)


def read_tokenizer(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> GgufTokenizer:
    """The tokenizer of a model whose vocabulary has `num_tokens` rows.

    Raises:
        RunError: llama.cpp has no such tokenizer.
    """
    parts: Json = json.loads(tokenizer.backend_tokenizer.to_str())
    if parts["model"]["type"] != "BPE":
        raise _unknown(f"a {parts['model']['type']} vocabulary")
    if len(tokenizer) > num_tokens:
        raise RunError(
            "model_not_loadable",
            f"The tokenizer knows {len(tokenizer)} tokens, but the model only {num_tokens}.",
            fault="infrastructure",
            param="model",
            remedy="Look at the model's files on the worker; what cannot be mended is added anew.",
        )
    if parts["model"].get("byte_fallback"):
        return _sentencepiece(parts, num_tokens)
    return _byte_level(parts, num_tokens)


def add_special_ids(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int]
) -> None:
    """The tokens with a meaning of their own, and the chat template."""
    adders = {
        "bos_token_id": writer.add_bos_token_id,
        "eos_token_id": writer.add_eos_token_id,
        "unk_token_id": writer.add_unk_token_id,
        "pad_token_id": writer.add_pad_token_id,
    }
    for name, add in adders.items():
        if (token_id := getattr(tokenizer, name)) is not None:
            add(token_id)
    if turn_ends := sorted(stop_ids - {tokenizer.eos_token_id}):
        writer.add_eot_token_id(turn_ends[0])
    bos = tokenizer.bos_token_id
    writer.add_add_bos_token(bos is not None and tokenizer("a")["input_ids"][:1] == [bos])
    writer.add_add_eos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.get_chat_template())


def _byte_level(parts: Json, num_tokens: int) -> GgufTokenizer:
    if (parts["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise _unknown(f"the normalizer {parts['normalizer']['type']}")
    tokens, types = _tokens(parts, num_tokens)
    merges = [_as_line(pair) for pair in parts["model"]["merges"]]
    return GgufTokenizer("gpt2", _cut_of(parts["pre_tokenizer"]), tokens, types, merges, [], False)


def _as_line(pair: str | list[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _cut_of(pre_tokenizer: Json | None) -> str:
    """llama.cpp's name of a byte-level tokenizer's way to cut text."""
    steps = _steps(pre_tokenizer)
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise _unknown("a vocabulary that is not of plain bytes")
    kinds = [step["type"] for step in steps[:-1]]
    if last.get("use_regex", True):
        if not kinds:
            return "gpt-2"
        if kinds == ["Digits"] and steps[0]["individual_digits"]:
            return "smollm"
    elif kinds == ["Split"] and (known := _SPLITS.get(steps[0]["pattern"].get("Regex", ""))):
        return known
    raise _unknown(f"the pre-tokenizer {', '.join(kinds) or 'ByteLevel'}")


def _steps(pre_tokenizer: Json | None) -> list[Json]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def _sentencepiece(parts: Json, num_tokens: int) -> GgufTokenizer:
    tokens, types = _tokens(parts, num_tokens)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(parts["model"]["merges"]):
        ranks.setdefault(_as_line(pair).replace(" ", "", 1), rank)
    scores = [-float(ranks[token]) if token in ranks else _LOWEST_SCORE for token in tokens]
    return GgufTokenizer("llama", "default", tokens, types, [], scores, _adds_space(parts))


def _adds_space(parts: Json) -> bool:
    """Whether the text is read with a space before it; refuses what else may be done to it."""
    normalizer, cut = parts["normalizer"], parts["pre_tokenizer"]
    if cut is not None and cut["type"] == "Metaspace" and not cut.get("split") and not normalizer:
        return bool(cut.get("prepend_scheme", "first") != "never")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    kinds: list[str] = [step["type"] for step in steps]
    if cut is None and kinds in (["Prepend", "Replace"], ["Replace"]):
        return kinds[0] == "Prepend"
    raise _unknown("a vocabulary with byte fallback that is not read as sentencepiece does")


def _tokens(parts: Json, num_tokens: int) -> tuple[list[str], list[int]]:
    """Every token by its id, and its type; rows of the model without a token are named so."""
    tokens = [_UNUSED.format(position) for position in range(num_tokens)]
    types = [int(TokenType.UNUSED)] * num_tokens
    for token, position in parts["model"]["vocab"].items():
        tokens[position] = token
        is_byte = parts["model"].get("byte_fallback") and _is_byte(token)
        types[position] = int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    unknown = parts["model"].get("unk_token")
    for added in parts["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        types[added["id"]] = int(TokenType.UNKNOWN if added["content"] == unknown else kind)
    return tokens, types


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _unknown(what: str) -> RunError:
    return invalid_spec(
        f"llama.cpp does not know the tokenizer of this model: it has {what}.",
        param="kind",
        remedy='Ask for "merged", and convert that with the tools of llama.cpp\'s own.',
    )
