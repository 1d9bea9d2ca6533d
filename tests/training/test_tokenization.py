"""The fast way from texts to tokens gives, token for token, what the tokenizer gives."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, PreTokenizer, Sequence, Split
from transformers import PreTrainedTokenizerFast

from training import tokenization
from training.tokenization import TokensDiffer, WholeTokens, WordTokens, tokens_of
from training.word_patterns import KNOWN, UnknownCut, cut_into_words, known_pattern

THREE_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BY_CASE = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The quick brown fox jumps over 13 lazy dogs; it's 2024, isn't it?  Well...\n\n- one\n- two",
    "Élève naïve à Noël: « où est-il ? » def f(x):\n    return x+1\n\tHTTPServer iPhone",
]
SPECIAL = ["<|end|>", "<|start|>", "<|eos|>"]
ALPHABET = [
    *"abcTheXYZ0123456789.,;:!?'()-_/ ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "'s", "'LL",
    "é", "É", "ß", "ж", "Ω", "世", "界", "😀", "\u0301", "\u00a0", "\u3000", "\u200b",
    "\u017f", "\u212a", "½", "ª", "§", "“", "—", "€", "ᄀ", "ᅡ", "한", "न", "ि", "\x00", "\x1c",
    "\x85", "\ufeff", *SPECIAL,
    "<|", "|>", "<|end", "the", " the", " quick", "iPhone", "HTTPServer",
]  # fmt: skip


def made(
    pre_tokenizer: PreTokenizer, normalizer: Any = None, *, model: Any = None
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model or models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>")


def split(pattern: str) -> Split:
    return Split(Regex(pattern), "isolated")


def bytes_only() -> ByteLevel:
    return ByteLevel(add_prefix_space=False, use_regex=False)


FAST: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": lambda: made(ByteLevel(add_prefix_space=False)),
    "digits": lambda: made(
        Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    ),
    "three digits": lambda: made(Sequence([split(THREE_DIGITS), bytes_only()])),
    "composed": lambda: made(
        Sequence([split(THREE_DIGITS.replace("{1,3}", "")), bytes_only()]), normalizers.NFC()
    ),
    "by case": lambda: made(Sequence([split(BY_CASE), bytes_only()])),
    "several cuts": lambda: made(
        Sequence([split(r"\p{N}{1,3}"), split(r"[一-龥]+"), split(THREE_DIGITS), bytes_only()])
    ),
}


def texts(count: int) -> list[str]:
    chooser = random.Random(5)
    return ["".join(chooser.choices(ALPHABET, k=chooser.randint(0, 60))) for _ in range(count)]


@pytest.mark.parametrize("name", FAST)
def test_every_text_has_the_tokenizers_own_tokens_and_places(name: str) -> None:
    tokenizer = FAST[name]()
    fast, whole = tokens_of(tokenizer), WholeTokens(tokenizer.backend_tokenizer)
    assert isinstance(fast, WordTokens)
    chooser = random.Random(6)
    for text in texts(1500):
        places = sorted(chooser.choices(range(len(text) + 1), k=6))
        spans = list(zip(places[::2], places[1::2], strict=True))
        ids, found = fast._found(text, spans)
        expected, expected_spans = whole.with_spans(text, spans)
        assert ids.tolist() == expected.tolist(), repr(text)
        assert found == expected_spans, repr((text, spans))
        assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def with_token(token: AddedToken, normalizer: Any = None) -> PreTrainedTokenizerFast:
    tokenizer = made(ByteLevel(add_prefix_space=False), normalizer)
    tokenizer.add_tokens([token])
    return tokenizer


SLOW: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "space before a text": lambda: made(ByteLevel(add_prefix_space=True)),
    "no bytes": lambda: made(Metaspace()),
    "lowercase": lambda: made(ByteLevel(add_prefix_space=False), normalizers.Lowercase()),
    "chance": lambda: made(ByteLevel(add_prefix_space=False), model=models.BPE(dropout=0.5)),
    "looks behind": lambda: made(Sequence([split(r"(?<=a)b|\s+|\S+"), bytes_only()])),
    "unknown class": lambda: made(Sequence([split(r"\p{Greek}+|\s+|\S"), bytes_only()])),
    "swallows blanks": lambda: with_token(AddedToken("<x>", rstrip=True)),
    "a blank inside": lambda: with_token(AddedToken("an apple")),
    "overlapping": lambda: with_token(AddedToken("|>x", normalized=True)),
    "normalized": lambda: with_token(AddedToken("<x>", normalized=True), normalizers.NFC()),
    "words with blanks": lambda: made(Sequence([split(r"[a-z]+( [a-z]+)?|\s|\S"), bytes_only()])),
    "numbers across a blank": lambda: made(
        Sequence([split(r"[0-9]+ [0-9]+|\s|\S+"), bytes_only()])
    ),
    "marks across a blank": lambda: made(Sequence([split(r"[a-z]+\.? \(|\s|\S"), bytes_only()])),
    "words across a blank": lambda: made(Sequence([split(r"[a-zé]+ [a-zé]+|\s|\S"), bytes_only()])),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_tokenizer_that_does_more_is_asked_itself(name: str) -> None:
    tokenizer = SLOW[name]()
    assert isinstance(tokens_of(tokenizer), WholeTokens)


def test_tokens_that_were_added_are_found() -> None:
    tokenizer = with_token(AddedToken("<tool>", normalized=True))
    fast = tokens_of(tokenizer)
    assert isinstance(fast, WordTokens)
    for text in ("a<tool>b", "<tool>", "<tool><|end|><tool> x", "<to<tool>ol>"):
        assert fast.ids(text).tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_of_two_tokens_the_longer_one_is_found() -> None:
    tokenizer = made(ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|", "<|end|>>"]})
    fast = tokens_of(tokenizer)
    assert isinstance(fast, WordTokens)
    for text in ("<|end|>>", "<|end|>", "<|end|", "x<|end|>>y<|end|z"):
        assert fast.ids(text).tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_truncation_of_the_tokenizers_own_is_off() -> None:
    tokenizer = FAST["byte level"]()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    assert 10 < len(tokens_of(tokenizer).ids("one, two, three, four, five")) < 40


def test_memory_is_bounded_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "_MAX_REMEMBERED", 8)
    tokenizer = FAST["byte level"]()
    fast = tokens_of(tokenizer)
    assert isinstance(fast, WordTokens)
    for text in texts(100):
        assert fast.ids(text).tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(fast._words) <= 8
        assert len(fast._chunks) <= 8


def test_a_difference_does_not_pass_for_long() -> None:
    fast = tokens_of(FAST["byte level"]())
    assert isinstance(fast, WordTokens)
    fast._words["wrong"] = np.asarray([5], np.int32).tobytes()
    with pytest.raises(TokensDiffer):
        [fast.ids("wrong") for _ in range(256)]


@pytest.mark.parametrize("pattern", [THREE_DIGITS, BY_CASE])
def test_words_are_cut_as_the_pattern_says(pattern: str) -> None:
    theirs, ours = split(pattern), [known_pattern(pattern)]
    chooser = random.Random(7)
    for _ in range(2000):
        text = "".join(chooser.choices([*KNOWN, *" \n\t\r'" * 60, *"sStTlLdD" * 20], k=30))
        expected = [word for word, _ in theirs.pre_tokenize_str(text)]
        assert cut_into_words(text, ours) == expected


@pytest.mark.parametrize("pattern", [r"\w+", r"(?<!a)b", r"\p{Nope}", "(a)", "[", r"[a&&b]"])
def test_a_pattern_that_may_mean_something_else_is_not_used(pattern: str) -> None:
    with pytest.raises(UnknownCut):
        known_pattern(pattern)
