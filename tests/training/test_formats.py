"""What a data file may hold: every accepted and every refused case, and the rows that come out."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.dataset_corpus import (
    ACCEPTED,
    CALL,
    CHAT,
    GOOD,
    LINE_LIMIT,
    NOT_TEXT,
    REFUSED,
    TOOL,
    around,
    chat,
    row,
    said,
    told,
    turn,
)
from training.conversation_checks import UNREAD_KEYS, check_conversation, check_sharegpt
from training.data_config import FormatName
from training.data_files import DataError, read_rows
from training.file_check import FileChecker, FileReport, NotText, OverLimit
from training.formats import FORMATS, detect_format
from training.json_lines import RowProblem
from training.roles import (
    ASSISTANT_FIRST,
    EMPTY,
    LAST_UNANSWERED,
    LATER_SYSTEM,
    RENAMED,
    ROLES,
    SAME_ROLE,
)
from training.rows import Conversation, Instruction, Message, PromptCompletion, Text


def checked(*chunks: bytes, format: FormatName | None = None, **limits: int) -> FileReport:
    checker = FileChecker(format=format, **{"max_line_bytes": LINE_LIMIT * 2, **limits})
    for chunk in chunks:
        checker.feed(chunk)
    return checker.finish()


@pytest.fixture
def written(tmp_path: Path):
    def write(content: bytes) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name: str, written):
    content, num_rows = ACCEPTED[name]
    report = checked(content, max_line_bytes=1 << 20)
    assert (report.num_rows, report.num_errors, report.errors) == (num_rows, 0, ())
    assert len(list(read_rows(written(content)))) == num_rows


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_by_line_and_checks_the_rest(name: str):
    case = REFUSED[name]
    report = checked(case.content, max_line_bytes=LINE_LIMIT)
    found = [error for error in report.errors if error.line == case.line]
    assert [error.line for error in found] == [case.line]
    assert case.reason in found[0].reason
    assert (found[0].column, report.num_rows) == (case.column, case.num_good)
    assert found[0].accepted.endswith(".")
    json.dumps(asdict(report), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", [name for name in REFUSED if "over the cap" not in name])
def test_training_refuses_the_same_at_the_first_bad_row(name: str, written):
    case = REFUSED[name]
    with pytest.raises(DataError) as caught:
        list(read_rows(written(case.content)))
    assert caught.value.line == case.line
    assert case.reason in caught.value.reason or case.num_good == 0
    assert str(caught.value).startswith(f"line {case.line}: ")


@pytest.mark.parametrize("kind", NOT_TEXT)
def test_a_file_that_is_not_text_is_refused_as_a_whole(kind: str):
    with pytest.raises(NotText, match=f"the file is {kind}, not text"):
        checked(*(bytes([byte]) for byte in NOT_TEXT[kind]))
    with pytest.raises(NotText, match=kind):
        FileChecker().feed(NOT_TEXT[kind].ljust(1024, b"\0"))


def test_a_few_control_characters_are_an_error_of_their_row_only():
    assert checked(around(b"\0\0\0")).num_rows == 2


def test_deep_nesting_is_refused_at_once():
    content = b"".join(
        opening * 100_000 + b"\n"
        for opening in (b"[", b'{"a":', b'{"a":[', b'"[', b'{"messages":[')
    )
    began = time.perf_counter()
    report = checked(content, max_line_bytes=1 << 20)
    assert report.num_errors == 5
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("depth", [100, 250, 253, 254, 255, 256])
def test_nesting_up_to_the_limit_is_kept(depth: int, written):
    value = "[" * (depth - 1) + "]" * (depth - 1)
    line = f'{{"prompt":"a","completion":"b","x":{value}}}'.encode()
    assert checked(line).extra_columns == {"x": 1}


def test_a_huge_number_costs_no_time():
    line = b'{"x":' + b"1" * (1 << 20) + b"}\n" + b'{"x":0.' + b"1" * (1 << 20) + b"}\n"
    began = time.perf_counter()
    report = checked(line, max_line_bytes=4 << 20)
    assert report.errors[0].reason == "an integer of 1048576 digits does not fit 64 bits"
    assert time.perf_counter() - began < 5


_ODD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (row(turn("system"), turn("user"), turn("assistant")), ()),
    "two users": (row(turn("user"), turn("user"), turn("assistant")), (SAME_ROLE,)),
    "two answers": (row(turn("user"), turn("assistant"), turn("assistant")), (SAME_ROLE,)),
    "two tools": (
        row(turn("user"), turn("assistant", tool_calls=[CALL]), turn("tool"), turn("tool")),
        (LAST_UNANSWERED,),
    ),
    "an answer first": (row(turn("assistant")), (ASSISTANT_FIRST,)),
    "an answer after the system": (row(turn("system"), turn("assistant")), (ASSISTANT_FIRST,)),
    "a question last": (row(turn("user"), turn("assistant"), turn("user")), (LAST_UNANSWERED,)),
    "an empty question": (row(turn("user", " "), turn("assistant")), (EMPTY,)),
    "an empty system message": (
        row(turn("system", ""), turn("assistant")),
        (ASSISTANT_FIRST, EMPTY),
    ),
    "an empty call": (row(turn("user"), turn("assistant", "", tool_calls=[CALL])), ()),
    "a system message inside": (
        row(turn("user"), turn("system"), turn("assistant")),
        (LATER_SYSTEM,),
    ),
    "two system messages": (
        row(turn("system"), turn("developer"), turn("user"), turn("assistant")),
        (SAME_ROLE, LATER_SYSTEM),
    ),
    "other names": (row(turn("human"), turn("GPT")), (RENAMED,)),
    "ShareGPT's own names": (CHAT, ()),
    "names that are not ShareGPT's": (chat(said("Human"), said("model")), (RENAMED,)),
    "ShareGPT's odd ones": (
        chat(said("gpt"), said("human", ""), said("human")),
        (SAME_ROLE, ASSISTANT_FIRST, LAST_UNANSWERED, EMPTY),
    ),
    "keys that are not read": (chat(said("human"), said("gpt", hash="x")), (UNREAD_KEYS,)),
}


@pytest.mark.parametrize("name", _ODD)
@pytest.mark.parametrize("num_rows", [1, 200])
def test_what_is_odd_is_kept_and_counted(name: str, num_rows: int):
    content, remarks = _ODD[name]
    report = checked((content + b"\n") * num_rows)
    assert (report.num_rows, report.num_errors) == (num_rows, 0)
    assert report.remarks == dict.fromkeys(remarks, num_rows)


def test_orders_are_told_apart_however_many_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.roles._MAX_KNOWN", 3)
    rows = [row(*[turn("user")] * n, turn("assistant")) for n in range(1, 90)]
    assert checked(b"\n".join(rows), max_line_bytes=1 << 20).remarks == {SAME_ROLE: 88}


@pytest.mark.parametrize(
    ("first", "last"), [(1, "text"), (None, "text"), (None, 1.5), ("text", {"a": [1]})]
)
def test_a_column_of_the_owners_may_change_its_type_in_the_last_row(first, last, written):
    """However late that is, and whether nulls came first."""
    rows = [{"prompt": "a", "completion": "b", "own": first}] * 20_000
    rows.append({"prompt": "a", "completion": "b", "own": last})
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    report = checked(content)
    assert (report.num_rows, report.num_errors, report.format) == (20_001, 0, "prompt_completion")
    assert sum(1 for _ in read_rows(written(content))) == 20_001


class TestFileChecker:
    def test_the_first_good_row_decides_the_format(self):
        instruct = b'{"instruction":"a","output":"b"}'
        report = checked(b'{"word":"?"}\n{"messages":[]}\n' + instruct + b"\n" + GOOD)
        assert (report.format, report.num_rows) == ("instruct", 1)
        assert [error.line for error in report.errors] == [1, 2, 4]

    def test_a_given_format_is_kept_whatever_the_rows_are(self):
        report = checked(GOOD + b'\n{"prompt":"a","completion":"b"}', format="prompt_completion")
        assert (report.format, report.num_rows, report.errors[0].line) == (
            "prompt_completion",
            1,
            1,
        )

    def test_no_good_row_means_no_format(self):
        assert checked(b"{}").format is None

    def test_errors_are_kept_up_to_a_number_and_all_counted(self):
        report = checked((b"x\n" + GOOD + b"\n") * 300, max_errors=7)
        assert (report.num_errors, report.num_rows) == (300, 300)
        assert [error.line for error in report.errors] == list(range(1, 14, 2))

    def test_line_numbers_count_every_line(self):
        blank = b"\n\r\n \n"
        report = checked(b"".join([blank, GOOD, b"\n"] * 100) + b"x")
        assert [error.line for error in report.errors] == [401]

    def test_other_columns_are_counted(self):
        rows = [row(turn("assistant"), id=1), row(turn("assistant"), id=2, tags={}), GOOD]
        assert checked(b"\n".join(rows)).extra_columns == {"id": 2, "tags": 1}

    def test_no_number_of_column_names_fills_the_memory(self):
        rows = [row(turn("assistant"), **{f"column {i} {'x' * 500}": i}) for i in range(300)]
        columns = checked(b"\n".join(rows)).extra_columns
        assert (len(columns), columns["(others)"], sum(columns.values())) == (101, 200, 300)
        assert max(map(len, columns)) < 70

    def test_too_many_rows_end_the_check(self):
        assert checked(b"x\n\n" * 10, max_rows=10).num_errors == 10
        with pytest.raises(OverLimit, match="more than 10 rows"):
            checked((GOOD + b"\n") * 11, max_rows=10)

    def test_a_line_as_long_as_the_cap_is_read(self):
        assert checked(GOOD, max_line_bytes=len(GOOD)).num_rows == 1
        assert checked(GOOD, max_line_bytes=len(GOOD) - 1).num_rows == 0

    def test_a_byte_order_mark_is_not_part_of_the_line(self):
        marked = b"\xef\xbb\xbf" + GOOD
        assert checked(marked[:9], marked[9:], max_line_bytes=len(GOOD)).num_rows == 1
        (error,) = checked(marked[:9], marked[9:] * 2, max_line_bytes=len(GOOD) - 1).errors
        assert "longer" in error.reason

    def test_memory_stays_flat(self):
        def chunks() -> Iterator[bytes]:
            yield b"x" * (1 << 20)
            for _ in range(20):  # one line of 20 MiB, then many rows, bad ones among them
                yield b"x" * (1 << 20)
            yield b"\n"
            block = (GOOD + b"\n") * 4000 + b"{\n" * 1000 + b"\n" * 100_000
            for _ in range(4):
                yield block

        checker = FileChecker(max_line_bytes=1 << 20)
        tracemalloc.start()
        for chunk in chunks():
            checker.feed(chunk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        report = checker.finish()
        assert (report.num_rows, report.num_errors) == (16_000, 4_001)
        assert peak < 16 << 20


_PIECES = st.sampled_from(
    [
        *(content for content, _ in ACCEPTED.values()),
        *(case.content for case in REFUSED.values()),
        *(GOOD, b"\n", b"\r\n", b" ", b"\xef\xbb\xbf", b'"', b"{", b"\xe9", b"\0"),
    ]
)


@given(
    content=st.lists(_PIECES, max_size=6).map(b"\n".join),
    cuts=st.lists(st.integers(0, 20_000), max_size=8),
    limit=st.sampled_from([30, LINE_LIMIT]),
)
def test_the_report_does_not_depend_on_the_chunks(content: bytes, cuts: list[int], limit: int):
    places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    chunks = [content[a:b] for a, b in pairwise(places)]
    assert report_or_refusal(chunks, limit) == report_or_refusal([content], limit)


def report_or_refusal(chunks: list[bytes], limit: int) -> FileReport | str:
    """What is said of a file; one of many control characters is no text."""
    checker = FileChecker(max_line_bytes=limit)
    try:
        for chunk in chunks:
            checker.feed(chunk)
        return checker.finish()
    except NotText as error:
        return str(error)


def test_every_split_in_two_gives_the_same_report():
    content = b"\xef\xbb\xbf" + GOOD + b"\r\n\n{\n" + GOOD
    whole = checked(content)
    for place in range(len(content) + 1):
        assert checked(content[:place], content[place:]) == whole


class TestRows:
    def test_conversation(self, written):
        content = around(
            row(
                turn("user", name="ada"),
                turn("assistant", None, tool_calls=[CALL]),
                turn("tool", "12:00", tool_call_id="1"),
                turn("assistant", "Noon.", weight=0),
                tools=[TOOL],
                system="Be brief.",
                id=7,
            )
        )
        rows = list(read_rows(written(content)))
        assert [each.line for each in rows] == [1, 2, 3]
        assert rows[1] == Conversation(
            2,
            (
                Message("system", "Be brief."),
                Message("user", "text", name="ada"),
                Message("assistant", None, tool_calls=(CALL,)),
                Message("tool", "12:00", tool_call_id="1"),
                Message("assistant", "Noon.", weight=0),
            ),
            (TOOL,),
        )

    def test_a_developer_is_a_system_prompt(self, written):
        (only,) = read_rows(written(row(turn("developer", "Rules."), turn("assistant"))))
        assert only.messages[0] == Message("system", "Rules.")

    @pytest.mark.parametrize("name", ROLES)
    @pytest.mark.parametrize("spelled", [str, str.upper, str.title])
    def test_a_role_has_many_names(self, name: str, spelled, written):
        messages = [turn("assistant", tool_calls=[CALL]), turn(spelled(name))]
        first, last = next(iter(read_rows(written(row(*messages))))).messages
        assert (first.role, last.role) == ("assistant", ROLES[name])

    @pytest.mark.parametrize("user", ["User", "USER", "UTILISATEUR"])
    def test_conversations_of_vigogne(self, user: str, written):
        turns = [{"role": user, "content": "a"}, {"role": user.replace("USER", "ASSISTANT")}]
        turns[1] = {"role": "ASSISTANT", "content": "b"}
        content = json.dumps({"id": "1", "conversation": turns}).encode()
        expected = Conversation(1, (Message("user", "a"), Message("assistant", "b")))
        assert list(read_rows(written(content), "messages")) == [expected]
        report = checked(content)
        assert (report.format, report.extra_columns) == ("messages", {"id": 1})

    def test_messages_go_before_a_conversation(self, written):
        content = row(turn("assistant"), conversation=[])
        assert checked(content).extra_columns == {"conversation": 1}
        assert next(read_rows(written(content))).messages == (Message("assistant", "text"),)

    def test_nulls_in_tools_do_not_reach_the_template(self, written):
        padded = {"name": "clock", "parameters": {"zone": None, "of": [None, {"a": None, "b": 1}]}}
        call = {"id": None, "function": {"name": "clock", "arguments": {"x": None, "zone": "UTC"}}}
        content = row(
            turn("assistant", None, tool_calls=[call]),
            tools=[{"type": None, "function": padded}],
        )
        (only,) = read_rows(written(content))
        plain = {"name": "clock", "parameters": {"of": [None, {"b": 1}]}}
        assert only.tools == ({"function": plain},)
        called = {"function": {"name": "clock", "arguments": {"zone": "UTC"}}}
        assert only.messages[0].tool_calls == (called,)

    def test_sharegpt(self, written):
        calls = '[{"name": "clock", "arguments": {"zone": "UTC"}}, {"name": "date"}]'
        content = chat(
            said("human", weight=1),
            said("function_call", calls),
            said("observation", "12:00"),
            {"role": "assistant", "content": "Noon.", "from": None},
            said("gpt", "Late.", weight=0.0),
            tools='[{"name": "clock"}]',
            system="Be brief.",
        )
        called = (
            {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}},
            {"type": "function", "function": {"name": "date", "arguments": {}}},
        )
        assert list(read_rows(written(b"\n" + content))) == [
            Conversation(
                2,
                (
                    Message("system", "Be brief."),
                    Message("user", "text"),
                    Message("assistant", None, tool_calls=called),
                    Message("tool", "12:00"),
                    Message("assistant", "Noon."),
                    Message("assistant", "Late.", weight=0),
                ),
                ({"type": "function", "function": {"name": "clock"}},),
            )
        ]

    def test_history(self, written):
        content = told(history=[["q", "a"], ["", "b"]], input="c", system="s")
        history = (("q", "a"), ("", "b"))
        assert list(read_rows(written(content))) == [
            Instruction(1, "a", "b", "c", "s", history=history)
        ]

    def test_text(self, written):
        assert list(read_rows(written(b'{"text":" a\\n","id":2}'))) == [Text(1, " a\n")]

    def test_instruction(self, written):
        content = (
            b'{"instruction":"a","output":"b"}\n\n'
            b'{"output":"b","instruction":"a","input":"c","system":""}'
        )
        assert list(read_rows(written(content))) == [
            Instruction(1, "a", "b", "", None),
            Instruction(3, "a", "b", "c", ""),
        ]

    def test_prompt_completion(self, written):
        content = '\ufeff{"prompt":"é\\n","completion":" b "}\r\n'.encode()
        assert list(read_rows(written(content))) == [PromptCompletion(1, "é\n", " b ")]

    def test_rows_before_a_bad_one_are_read(self, written):
        rows = read_rows(written(GOOD + b"\nx"))
        assert next(rows).line == 1
        with pytest.raises(DataError, match="line 2: not JSON"):
            next(rows)


_MESSAGE_KEYS = ["role", "content", "weight", "function", "name", "tool_calls"]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(_MESSAGE_KEYS), inner),
)


class TestEveryFormat:
    """A new row in `FORMATS` is tested by being there."""

    @pytest.fixture(params=list(FORMATS))
    def format(self, request: pytest.FixtureRequest):
        return FORMATS[request.param]

    @pytest.fixture
    def example(self, format):
        return json.loads(
            format.accepted[format.accepted.index("{") : format.accepted.rindex("}") + 1]
        )

    def test_the_table_names_every_format_of_the_configuration(self):
        assert tuple(FORMATS) == get_args(FormatName)
        assert all(format.name == name for name, format in FORMATS.items())

    def test_the_accepted_form_is_accepted_and_recognised(self, format, example):
        line = json.dumps(example).encode()
        report = checked(line)
        assert (report.format, report.num_rows, report.extra_columns) == (format.name, 1, {})
        assert detect_format(example) == format.name

    def test_only_its_own_columns_are_read(self, format, example):
        extra = {f"not_{key}": None for key in format.columns}
        report = checked(json.dumps({**example, **extra}).encode())
        assert report.extra_columns == dict.fromkeys(extra, 1)
        assert format.keys <= format.columns

    def test_every_key_is_needed(self, format, example):
        for key in format.keys:
            short = {name: value for name, value in example.items() if name != key}
            assert detect_format(short) != format.name
            report = checked(json.dumps(short).encode(), format=format.name)
            assert f"{key} is missing" in report.errors[0].reason

    def test_its_check_refuses_a_row_without_a_key(self, format, example):
        for key in format.keys:
            with pytest.raises(RowProblem):
                format.check({name: value for name, value in example.items() if name != key})

    @pytest.mark.parametrize("value", [None, 1, 1.5, True, [], [1], {}, {"a": "b"}, [None], [[]]])
    def test_no_column_takes_any_value(self, format, example, value):
        for key in format.keys:
            report = checked(json.dumps({**example, key: value}).encode(), format=format.name)
            assert report.errors[0].reason.startswith(key)
            assert report.errors[0].column is None

    @given(value=_VALUES)
    def test_any_value_in_any_column_is_read_or_refused(self, value):
        for format in FORMATS.values():
            for key in format.columns:
                example = dict.fromkeys(format.keys, "text") | {key: value}
                line = json.dumps(example).encode()
                report = checked(line, format=format.name, max_line_bytes=1 << 20)
                assert report.num_rows + report.num_errors == 1
                json.dumps(asdict(report), ensure_ascii=False).encode()

    def test_its_rows_know_their_line(self, format, example, written):
        line = json.dumps(example).encode()
        rows = list(read_rows(written(line + b"\n\n" + line), format.name))
        assert [each.line for each in rows] == [1, 3]
        assert {type(each) for each in rows} == {type(format.build(1, example))}


@pytest.mark.parametrize(
    ("check", "data", "accepted"),
    [
        (
            check_conversation,
            row(turn("user"), turn("assistant", reasoning_content="hm")),
            "The keys content, name, role, tool_calls, weight; a thought stands in the content",
        ),
        (check_sharegpt, chat(said("robot"), said("gpt")), "in any case; or function_call."),
    ],
)
def test_all_that_a_turn_may_have_is_told(check, data, accepted):
    with pytest.raises(RowProblem) as refused:
        check(json.loads(data))
    assert accepted in refused.value.accepted
