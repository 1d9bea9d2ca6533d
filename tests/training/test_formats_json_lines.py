"""The fast reader and the exact one say the same, whatever the line."""

import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.training.dataset_corpus import ACCEPTED, GOOD, REFUSED
from training import json_lines
from training.json_lines import (
    LineSplitter,
    RowProblem,
    read_exactly,
    read_object,
    read_objects,
    shown,
)

_NUMBERS = st.sampled_from(
    [
        *("0", "-0", "1", "-1", "1.5", "0.1", "1e5", "1E-7", "-0.0", "1e22", "1e308", "1e309"),
        *("123456789012345678", "9223372036854775807", "-9223372036854775808"),
        *("-9223372036854775809", "18446744073709551615", "18446744073709551616"),
        *("0.12345678901234567890", "NaN", "Infinity", "-Infinity", "01", "1.", ".5"),
        *("true", "false", "null"),
    ]
)
_PARTS = st.sampled_from(
    [
        *("a", "role", "é", "😀", " ", "1111111111111111111", "[{", "}]"),
        *(r"\"", r"\\", r"\/", r"\n", r"\u0022", r"\u0061", r"\u0000", r"\u00e9"),
        *(r"\ud83d\ude00", r"\ud83d", r"\uDE00", r"\\u0022", r"\x", "\t", "\0"),
    ]
)
_STRINGS = st.lists(_PARTS, max_size=4).map(lambda parts: f'"{"".join(parts)}"')
_SPACES = st.sampled_from(["", "", "", " ", "\t", "\r"])


def _array(values: list[str]) -> str:
    return f"[{','.join(values)}]"


@st.composite
def _objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = st.sampled_from(['"a"', '"b"', r'"\u0061"', r'"\""', r'"\u0022"']) | _STRINGS
    pairs = draw(st.lists(st.tuples(keys, values, _SPACES), max_size=4))
    return "{" + ",".join(f"{space}{key}:{space}{value}" for key, value, space in pairs) + "}"


_VALUES = st.recursive(
    _NUMBERS | _STRINGS,
    lambda inner: st.lists(inner, max_size=4).map(_array) | _objects(inner),
    max_leaves=8,
)
_LINES = _objects(_VALUES).map(lambda text: text.encode(errors="replace"))


def outcome(line: bytes) -> object:
    """What a line is read as, told apart by type, or why it is refused."""
    try:
        value = read_exactly(line)
    except RowProblem as problem:
        return (problem.reason, problem.column)
    return repr(value) if isinstance(value, dict) else "not an object"


def fast(line: bytes) -> object:
    (value,) = read_objects([line], len(line))
    if isinstance(value, RowProblem):
        refused = (value.reason, value.column)
        return "not an object" if "not an object" in value.reason else refused
    return repr(value)


@given(_LINES)
@example(rb'{"a":1,"a":"\u0022\u0022"}')  # two quotes lost, two gained
@example(rb'{"a":"\\u0022","b":"\\\u0022"}')
@example(b'{"a":18446744073709551616}')
@example(b'{"a":[{"b":1,"b":1.0}]}')
def test_fast_is_exact(line: bytes):
    assert fast(line) == outcome(line)


@given(st.lists(_LINES | st.sampled_from([GOOD, b"", b"\r", b"1"]), max_size=5))
def test_reading_many_lines_is_reading_each(lines: list[bytes]):
    many = read_objects(lines, 1 << 20)
    each = [read_objects([line], 1 << 20)[0] for line in lines]
    assert list(map(_comparable, many)) == list(map(_comparable, each))


def _comparable(value: object) -> object:
    return (value.reason, value.column) if isinstance(value, RowProblem) else repr(value)


@given(st.binary(max_size=40) | _LINES, st.integers(0, 60), st.binary(max_size=2))
def test_damaged_lines_are_read_alike(line: bytes, place: int, piece: bytes):
    damaged = line[:place] + piece + line[place + 1 :]
    assume(damaged.strip())
    assert fast(damaged) == outcome(damaged)


@pytest.mark.parametrize("name", [*ACCEPTED, *REFUSED])
def test_real_files_are_read_alike(name: str):
    content = ACCEPTED[name][0] if name in ACCEPTED else REFUSED[name].content
    for line in content.split(b"\n"):
        if line.strip():
            assert fast(line) == outcome(line)


_SURVIVING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(value=st.dictionaries(st.text(max_size=3), _SURVIVING, max_size=3), ascii_=st.booleans())
def test_every_object_that_survives_writing_is_read_back(value: dict[str, object], *, ascii_: bool):
    line = json.dumps(value, ensure_ascii=ascii_).encode()
    assert read_object(line) == value


@pytest.mark.parametrize("kind", ["plain text", "quotes", "escapes of letters", "long digits"])
def test_usual_lines_are_read_fast(kind: str, monkeypatch: pytest.MonkeyPatch):
    contents = {
        "plain text": "one\ntwo",
        "quotes": 'say "a", {"b": "c"} \\',
        "escapes of letters": "élève 😀",
        "long digits": "1" * 30,
    }
    monkeypatch.setattr(json_lines, "read_exactly", None)  # a call would raise
    value = {"prompt": contents[kind], "completion": "b", "id": 2**63, "n": None}
    assert read_object(json.dumps(value).encode()) == value


def test_floats_are_read_fast_unless_they_may_hide_an_integer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_lines, "read_exactly", lambda line: {"exact": line})
    assert read_object(b'{"a":0.5}') == {"a": 0.5}
    line = b'{"a":[{"b":[1e3]}],"c":"1111111111111111111"}'
    assert read_object(line) == {"exact": line}


@pytest.mark.parametrize("place", range(20))
@pytest.mark.parametrize("number", ["9" * 20, "-9" + "3" * 18, "1" * 400])
def test_no_place_hides_an_integer_beyond_64_bits(number: str, place: int):
    line = f'{{"{"k" * place}":{number},"z":0}}'.encode()
    (value,) = read_objects([line], len(line))
    assert isinstance(value, RowProblem)
    assert value.column == place + 5


class TestLineSplitter:
    def test_a_line_beyond_the_limit_keeps_little_and_tells(self):
        splitter = LineSplitter(10)
        assert splitter.feed(b"a" * 11) == []
        assert all(splitter.feed(b"a" * 100) == [] for _ in range(100))
        (line, whole) = splitter.feed(b"\nbb\nc")
        assert 10 < len(line) < 20
        assert (whole, splitter.finish(), splitter.finish()) == (b"bb", b"c", b"")

    @given(st.lists(st.binary(max_size=6).map(lambda text: text.replace(b"a", b"\n"))))
    def test_any_chunks_make_the_same_lines(self, chunks: list[bytes]):
        splitter = LineSplitter(1 << 20)
        lines = [line for chunk in chunks for line in splitter.feed(chunk)]
        assert [*lines, splitter.finish()] == b"".join(chunks).split(b"\n")


@given(st.text() | st.integers() | st.lists(st.text()))
def test_a_quoted_value_is_short_and_can_be_stored(value: object):
    text = shown(value)
    assert len(text) <= 61
    assert not {"\n", "\0"} & set(text)
    assert text.encode().decode() == text


def test_a_quoted_value_with_half_a_character_can_be_stored():
    assert shown("\ud800") == '"\\ud800"'
