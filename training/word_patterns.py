"""How a byte-level tokenizer cuts a text into words, for texts of well-known characters.

A tokenizer's pattern names classes of Unicode characters, which `re` does not know. Among the
characters of `KNOWN`, whose classes have been the same in all versions of Unicode, each class is
a short list, so that `re` can do the same cuts.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

_FOLDED = frozenset("\u017f\u212a")
"""Another case of an ASCII letter, for some readers of patterns."""
_PROPERTY = re.compile(r"\\p\{(\w+)\}")
_CLASS_NAMES = frozenset(
    {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "S"}
)
_WITH_OTHER_MEANING = ("(?<", r"\P", "[[", "&&", r"\w", r"\d", r"\b")
"""What looks behind, or means more in `re` than it says, or something else."""

BYTE_LEVEL_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the step `ByteLevel` cuts by when it is asked to."""

WordPattern = re.Pattern[str]


class UnknownCut(ValueError):  # noqa: N818 - the noun says it
    """A tokenizer cuts in a way that is not understood here."""


def _is_known(char: str) -> bool:
    category = unicodedata.category(char)
    lasting = category == unicodedata.ucd_3_2_0.category(char)
    return lasting and category[0] in "LNPS" and char not in _FOLDED


_LETTERS_AND_MARKS = chain(range(0x21, 0x500), range(0x2010, 0x2060), range(0x20A0, 0x20B0))
KNOWN = "".join(filter(_is_known, map(chr, _LETTERS_AND_MARKS)))
"""Latin, Greek and Cyrillic letters, digits, and marks that are typed or printed with them."""

KNOWN_TEXT = re.compile(f"[\\t\\n\\r {re.escape(KNOWN)}]*")


def known_pattern(pattern: str) -> WordPattern:
    """`pattern`, which the `tokenizers` package understands, for texts of `KNOWN` and blanks.

    Raises:
        UnknownCut: Something in it has no counterpart.
    """
    if any(each in pattern for each in _WITH_OTHER_MEANING):
        raise UnknownCut(pattern)
    pieces = []
    place = 0
    for match in _PROPERTY.finditer(pattern):
        pieces.append(pattern[place : match.start()])
        members = _members(match[1])
        inside = _is_inside_brackets(pattern, match.start())
        pieces.append(members if inside else f"[{members}]" if members else "(?!)")
        place = match.end()
    try:
        compiled = re.compile("".join((*pieces, pattern[place:])))
    except re.error as error:
        raise UnknownCut(pattern) from error
    if compiled.groups:
        raise UnknownCut(pattern)
    return compiled


@cache
def _members(name: str) -> str:
    """The known characters of a class, as they are listed between brackets."""
    if name not in _CLASS_NAMES:
        raise UnknownCut(name)
    members = [ord(char) for char in KNOWN if unicodedata.category(char).startswith(name)]
    ranges: list[list[int]] = []
    for code in members:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(rf"\u{first:04x}-\u{last:04x}" for first, last in ranges)


def _is_inside_brackets(pattern: str, place: int) -> bool:
    """Whether a class of characters is open at `place`; no pattern here nests them."""
    before = re.sub(r"\\.", "", pattern[:place])
    return before.rfind("[") > before.rfind("]")


def word_patterns(pre_tokenizer: object) -> list[WordPattern]:
    """The cuts that a byte-level pre-tokenizer makes, one after the other.

    Raises:
        UnknownCut: It does something else, or something before each text.
    """
    state = pre_tokenizer.__getstate__()  # as JSON, for pickle
    description = json.loads(state) if isinstance(state, (bytes, str)) else {}
    steps = description.get("pretokenizers", [description])
    *before, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise UnknownCut(last)
    patterns = [_pattern_of(step) for step in before]
    if last.get("use_regex", True):
        patterns.append(known_pattern(BYTE_LEVEL_PATTERN))
    return patterns


def _pattern_of(step: Mapping[str, Any]) -> WordPattern:
    match step:
        case {"type": "Digits", "individual_digits": bool(each)}:
            return known_pattern(r"\p{N}" if each else r"\p{N}+")
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated"}:
            if step.get("invert"):
                raise UnknownCut(step)
            return known_pattern(regex)
        case _:
            raise UnknownCut(step)


def cut_into_words(text: str, patterns: Sequence[WordPattern]) -> list[str]:
    """`text`, of known characters and blanks, in words."""
    words = _isolated(patterns[0], text) if patterns else [text]
    for pattern in patterns[1:]:
        words = [piece for word in words for piece in _isolated(pattern, word)]
    return words


def _isolated(pattern: WordPattern, text: str) -> list[str]:
    """Every match by itself, and what stands between two."""
    found: list[str] = pattern.findall(text)
    if "".join(found) == text:
        return found if all(found) else list(filter(None, found))
    pieces = []
    place = 0
    for match in pattern.finditer(text):
        pieces += [text[place : match.start()], match[0]]
        place = match.end()
    return [each for each in (*pieces, text[place:]) if each]
