"""Text to tokens, exactly as a model's tokenizer does it, and where in them a place of the text is.

A byte-level BPE tokenizer cuts a text into words before it looks at any, so that no token reaches
from one word into the next. `WordTokens` cuts as it does and remembers the tokens of every word,
which is many times as fast as asking the tokenizer again. It serves only tokenizers whose own
description allows that, and with which a trial agrees; `WholeTokens` serves all others, and tells
what is right.
"""

import json
import random
import re
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import PreTrainedTokenizerBase

from training.word_patterns import (
    KNOWN_TEXT,
    UnknownCut,
    WordPattern,
    cut_into_words,
    word_patterns,
)

Ids = NDArray[np.int32]
Span = tuple[int, int]
"""From one place up to another: of characters in a text, or of its tokens."""

_MAX_REMEMBERED = 200_000
_SHORT, _MAX_SHORT = 256, 1024
_MAX_CUT = 64
_MAX_PAIRS = 100_000
_CHECKED_OF = 256
_TRIALS = 40
_ID_BYTES = 4
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTED)
_BYTE_LEVEL = {byte: 256 + number for number, byte in enumerate(_OTHERS)}
"""How byte-level tokenizers spell the bytes that are no printed character of Latin-1."""
_SPACE = chr(_BYTE_LEVEL[0x20])
_SPACE_INSIDE = re.compile(r"\S\s")


class TokensDiffer(RuntimeError):  # noqa: N818 - what happened, in two words
    """A text whose tokens are not those that the tokenizer gives."""


class Tokens(Protocol):
    """What a tokenizer makes of texts; the special tokens in them are meant as such."""

    def ids(self, text: str) -> Ids: ...

    def with_spans(self, text: str, spans: Sequence[Span]) -> tuple[Ids, list[Span]]:
        """The tokens of `text`, and each span in tokens.

        A span, of those that follow each other in `text`, goes from the first token that ends
        behind its start to the first that begins at its end or later.
        """


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The fastest way that is right for this tokenizer."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False
    whole = WholeTokens(backend)
    try:
        by_words = WordTokens(backend, whole)
        _require_cuts(backend.pre_tokenizer)
    except UnknownCut:
        return whole
    try:
        agree = _agree(by_words, whole)
    except TokensDiffer:
        agree = False
    return by_words if agree else whole


class WholeTokens:
    """Asks the tokenizer."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend

    def ids(self, text: str) -> Ids:
        return np.asarray(self._backend.encode(text, add_special_tokens=False).ids, np.int32)

    def with_spans(self, text: str, spans: Sequence[Span]) -> tuple[Ids, list[Span]]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        starts, ends = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
        found = [
            (
                int(np.searchsorted(ends, start, side="right")),
                int(np.searchsorted(starts, end, side="left")),
            )
            for start, end in spans
        ]
        return np.asarray(encoding.ids, np.int32), found


class _Remembered(dict[str, bytes]):
    """Token ids by the text they stand for, as bytes, which are joined in one go."""

    def __init__(self, find: Callable[[str], bytes]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, text: str) -> bytes:
        found = self._find(text)
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[text] = found
        return found


class WordTokens:
    """Remembers what the tokenizer made of each word.

    What holds characters that are not well known is cut before every single space between two
    characters that are seen, which begins a word in every byte-level tokenizer, and the tokenizer
    is asked. One text of `_CHECKED_OF` is checked.

    Raises:
        UnknownCut: The tokenizer does more than that.
    """

    def __init__(self, backend: Tokenizer, whole: WholeTokens) -> None:
        if not isinstance(backend.model, BPE) or backend.model.dropout:
            raise UnknownCut(backend.model)
        self._patterns: list[WordPattern] = word_patterns(backend.pre_tokenizer)
        added = _added_tokens(backend)
        self._added_ids = {text: _as_bytes([number]) for text, number in added.items()}
        longest_first = sorted(map(re.escape, added), key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(longest_first)})") if added else None
        self._encode = backend.encode
        self._tokenize = backend.model.tokenize
        self._words = _Remembered(self._word)
        self._chunks = _Remembered(self._chunk)
        self._short = lru_cache(_MAX_SHORT)(self._joined)
        self._pieces = lru_cache(_MAX_CUT)(self._cut)  # once for its tokens, once for a place in it
        self._whole = whole
        self._num_asked = 0

    def ids(self, text: str) -> Ids:
        return self.with_spans(text, ())[0]

    def with_spans(self, text: str, spans: Sequence[Span]) -> tuple[Ids, list[Span]]:
        """As `Tokens`.

        Raises:
            TokensDiffer: In a text that was checked.
        """
        found = self._found(text, spans)
        if self._num_asked % _CHECKED_OF == 0 and not _are_equal(
            found, self._whole.with_spans(text, spans)
        ):
            raise TokensDiffer(text)
        self._num_asked += 1
        return found

    def _found(self, text: str, spans: Sequence[Span]) -> tuple[Ids, list[Span]]:
        stretches = self._added.split(text) if self._added else [text]
        tokens = [b""] * len(stretches)
        tokens[::2] = map(self._tokens_of, stretches[::2])
        tokens[1::2] = map(self._added_ids.__getitem__, stretches[1::2])
        ids = np.frombuffer(b"".join(tokens), np.int32)
        if not spans:
            return ids, []
        chars_before = [0, *accumulate(map(len, stretches))]
        bytes_before = [0, *accumulate(map(len, tokens))]

        def position(place: int, *, is_end: bool) -> int:
            number = bisect_right(chars_before, place) - 1
            before = bytes_before[number] // _ID_BYTES
            if inside := place - chars_before[number]:
                return before + self._position(stretches[number], inside, is_end=is_end)
            return before

        return ids, [
            (position(start, is_end=False), position(end, is_end=True)) for start, end in spans
        ]

    def _tokens_of(self, stretch: str) -> bytes:
        """The tokens of a text without added tokens; what templates repeat is short, and kept."""
        if len(stretch) <= _SHORT:
            return self._short(stretch)
        return self._joined(stretch)

    def _joined(self, stretch: str) -> bytes:
        pieces, known = self._pieces(stretch)
        return b"".join(map(known.__getitem__, pieces))

    def _cut(self, text: str) -> tuple[list[str], dict[str, bytes]]:
        """A text without added tokens in pieces, and where the tokens of each are remembered."""
        if KNOWN_TEXT.fullmatch(text):
            return cut_into_words(text, self._patterns), self._words
        return _chunks(text), self._chunks

    def _chunk(self, text: str) -> bytes:
        if KNOWN_TEXT.fullmatch(text):
            words = cut_into_words(text, self._patterns)
            return b"".join(map(self._words.__getitem__, words))
        return _as_bytes(self._encode(text, add_special_tokens=False).ids)

    def _word(self, text: str) -> bytes:
        if text.isascii() and text.isprintable():
            spelled = text.replace(" ", _SPACE)
        else:
            spelled = text.encode().decode("latin-1").translate(_BYTE_LEVEL)
        return _as_bytes([token.id for token in self._tokenize(spelled)])

    def _position(self, stretch: str, offset: int, *, is_end: bool) -> int:
        """How many tokens of a stretch, or of an added token, come before a place inside it."""
        if stretch in self._added_ids:
            return int(is_end)
        pieces, known = self._pieces(stretch)
        num_tokens = 0
        for piece in pieces:
            if len(piece) > offset:
                return num_tokens + self._position_inside(piece, offset, is_end=is_end)
            offset -= len(piece)
            num_tokens += len(known[piece]) // _ID_BYTES
        return num_tokens

    def _position_inside(self, text: str, offset: int, *, is_end: bool) -> int:
        if not offset:
            return 0
        offsets = self._encode(text, add_special_tokens=False).offsets
        if is_end:
            return sum(start < offset for start, _ in offsets)
        return sum(end <= offset for _, end in offsets)


def _as_bytes(ids: Iterable[int]) -> bytes:
    return array("i", ids).tobytes()


def _is_seen(char: str) -> bool:
    """Whether a character is a letter, digit, mark of punctuation or symbol, and long has been."""
    if char.isascii():
        return "!" <= char <= "~"
    return unicodedata.ucd_3_2_0.category(char)[0] in "LNPS"


def _chunks(text: str) -> list[str]:
    """`text`, cut before every single space between two characters that are seen."""
    first, *rest = text.split(" ")
    chunks = [first]
    for part in rest:
        if _is_seen(part[:1]) and _is_seen(chunks[-1][-1:]):
            chunks.append(" " + part)
        else:
            chunks[-1] += " " + part
    return chunks


def _added_tokens(backend: Tokenizer) -> dict[str, int]:
    """The tokens that are looked for before a text is cut into words, with their ids.

    Raises:
        UnknownCut: One swallows what stands beside it, or could be found in more ways than one.
    """
    normalizer = backend.normalizer
    if normalizer is not None and json.loads(normalizer.__getstate__()) != {"type": "NFC"}:
        raise UnknownCut(normalizer)
    tokens = backend.get_added_tokens_decoder()
    for token in tokens.values():
        swallows = token.lstrip or token.rstrip or token.single_word
        if swallows or _SPACE_INSIDE.search(token.content):
            raise UnknownCut(token)
        if token.normalized and normalizer is not None:
            raise UnknownCut(token)
    if _may_overlap(list(tokens.values())):
        raise UnknownCut("added tokens overlap")
    return {token.content: number for number, token in tokens.items()}


def _may_overlap(tokens: list[AddedToken]) -> bool:
    """Whether a token of the kind that is looked for first may take a part of one of the other."""
    later = [token.content for token in tokens if token.normalized]
    sooner = [token.content for token in tokens if not token.normalized]
    if len(later) * len(sooner) > _MAX_PAIRS:
        return True
    return any(a in b or b in a or _meet(a, b) or _meet(b, a) for a, b in product(later, sooner))


def _meet(left: str, right: str) -> bool:
    return any(left.endswith(right[:length]) for length in range(1, min(len(left), len(right))))


def _are_equal(one: tuple[Ids, list[Span]], other: tuple[Ids, list[Span]]) -> bool:
    return one[1] == other[1] and np.array_equal(one[0], other[0])


_SYLLABLES = (
    *("a", "B", "word", "The", "iPhone", "é", "Été", "世界", "ß", "e\u0301", "привет", "한", "ᄀ"),
    *("'s", "'LL", "'", "7", "2024", "½", ".", ",", "?!", "(", "---", "_", "€", "😀", "«", "`"),
    *(" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u200b"),
)


_AROUND_A_BLANK = (
    "word",
    "The",
    "été",
    "привет",
    "世",
    "7",
    "2024",
    ".",
    "(",
    "'s",
    "_",
    "€",
    "😀",
)


def _around_blanks() -> Iterator[str]:
    """Every kind of word before and behind a blank, beside what is well known and what is not."""
    for beside in ("世", "word"):
        pairs = (f"{left} {right}" for left, right in product(_AROUND_A_BLANK, repeat=2))
        yield from (
            f"{beside} {' '.join(some)} {beside}" for some in zip(*[pairs] * 13, strict=True)
        )


def _require_cuts(pre_tokenizer: PreTokenizer) -> None:
    """Whatever the vocabulary holds, no word may reach over a place where texts are cut.

    Raises:
        UnknownCut: One does, so that a rare token could.
    """
    for text in _around_blanks():
        begins = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(text)}
        ends = accumulate(map(len, _chunks(text)[:-1]))
        if not begins.issuperset(ends):
            raise UnknownCut(text)


def _trial_texts() -> Iterator[str]:
    yield from _around_blanks()
    random_ = random.Random(0)  # noqa: S311 - no secret
    for _ in range(_TRIALS):
        yield "".join(random_.choices(_SYLLABLES, k=random_.randint(1, 24)))


def _agree(one: Tokens, other: Tokens) -> bool:
    """Whether both give the same tokens for texts that are made up to be hard."""
    random_ = random.Random(1)  # noqa: S311 - no secret
    for text in _trial_texts():
        places = sorted(random_.choices(range(len(text) + 1), k=4))
        spans = [(places[0], places[1]), (places[2], places[3])]
        if not _are_equal(one.with_spans(text, spans), other.with_spans(text, spans)):
            return False
    return True
