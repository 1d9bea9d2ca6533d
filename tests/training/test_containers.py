"""The same rows in every container, and what is told of files that are broken or hostile."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from tests.training.container_files import WRITERS, csv_line, stream, written
from training.containers import CONTAINERS, container_of
from training.data_config import ContainerName
from training.data_files import DataError, Limits, check_file, read_rows
from training.file_check import FileReport, word_of_place
from training.formats import FORMATS
from training.json_array import ArraySplitter
from training.rows import Text

TABLES = ("csv", "parquet", "arrow")
BINARY = [name for name, container in CONTAINERS.items() if container.magic]
SAMPLES: dict[str, dict[str, Any]] = {
    "messages": {
        "messages": [
            {"role": "user", "content": "Hé?", "name": "ada"},
            {"role": "assistant", "content": "Oui, « là ».\n"},
        ],
        "system": "Be kind.",
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "instruct": {"instruction": 'Say "b", é;', "input": "c\nd", "output": "b", "system": None},
    "prompt_completion": {"prompt": "a,\tb", "completion": " b\r\n"},
    "text": {"text": "one, \"two\" 'é' \u2028 three"},
}


def can_hold(container: str, format: str) -> bool:
    if container == "txt":
        return format == "text"
    return container != "csv" or not FORMATS[format].is_chat


def found(report: FileReport) -> list[tuple[int, str]]:
    return [(error.line, error.reason) for error in report.errors]


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


class TestEveryContainer:
    """A new row in `CONTAINERS` is tested by being there, once `WRITERS` can write it."""

    @pytest.fixture(params=list(CONTAINERS))
    def container(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def test_the_table_names_every_container(self, container):
        assert set(WRITERS) == set(CONTAINERS) == set(get_args(ContainerName))
        assert CONTAINERS[container].name == container

    def test_suffixes_and_first_bytes_tell_them_apart(self):
        suffixes = [s for container in CONTAINERS.values() for s in container.suffixes]
        heads = [m for container in CONTAINERS.values() for m in container.magic]
        assert len(set(suffixes)) == len(suffixes)
        assert len(set(heads)) == len(heads)

    @pytest.mark.parametrize("format", SAMPLES)
    def test_rows_are_those_of_json_lines(self, container, format, tmp_path):
        if not can_hold(container, format):
            return
        rows = [SAMPLES[format]] * 8
        path = written(container, rows, tmp_path)
        report = check_file(path)
        expected = list(read_rows(written("jsonl", rows, tmp_path)))
        got = list(read_rows(path))
        assert [replace(row, line=0) for row in got] == [replace(row, line=0) for row in expected]
        places = [row.line for row in got]
        assert places == sorted(set(places))
        assert places[0] == (2 if container == "csv" else 1)
        assert (report.format, report.num_rows, report.errors) == (format, 8, ())
        assert report.container == container

    def test_a_given_format_is_held_to(self, container, tmp_path):
        path = written(container, [SAMPLES["text"]], tmp_path)
        assert check_file(path, "text").num_rows == 1
        report = check_file(path, "prompt_completion")
        assert (report.num_rows, report.num_errors) == (0, 1)
        assert report.format == "prompt_completion"
        assert (
            report.errors[0].reason == "a row of format text in a file of format prompt_completion"
        )
        with pytest.raises(DataError, match="a row of format text"):
            list(read_rows(path, "prompt_completion"))

    def test_a_bad_row_is_told_and_the_others_are_counted(self, container, tmp_path):
        texts = ["one", "two", "x\0y", "four", "five"]
        path = written(container, [{"text": text} for text in texts], tmp_path)
        place = 4 if container == "csv" else 3
        report = check_file(path)
        assert (report.num_rows, found(report)) == (4, [(place, "text holds a NUL character")])
        rows = read_rows(path)
        assert [next(rows), next(rows)] == [Text(place - 2, "one"), Text(place - 1, "two")]
        with pytest.raises(DataError) as caught:
            next(rows)
        assert (
            str(caught.value) == f"{word_of_place(container)} {place}: text holds a NUL character"
        )

    def test_a_row_over_the_limit_is_one_error(self, container, tmp_path):
        texts = ["one", "x" * 5000, "three"]
        path = written(container, [{"text": text} for text in texts], tmp_path)
        report = check_file(path, limits=Limits(max_row_bytes=1000))
        assert (report.num_rows, report.num_errors) == (2, 1)
        assert report.errors[0].line == (3 if container == "csv" else 2)
        assert "longer than 1000 bytes" in report.errors[0].reason
        assert [row.text for row in read_rows(path)] == texts

    def test_too_many_rows_end_the_check(self, container, tmp_path):
        path = written(container, [{"text": "one"}] * 2000, tmp_path)
        report = check_file(path, limits=Limits(max_rows=10))
        assert report.num_rows < 2000
        assert report.errors[-1].reason == (
            "the file has more than 10 rows, the most that is accepted"
        )

    def test_errors_are_kept_up_to_a_number_and_all_counted(self, container, tmp_path):
        path = written(container, [{"text": "one, two, three \0"}] * 300, tmp_path)
        report = check_file(path, limits=Limits(max_errors=7))
        assert (report.num_errors, len(report.errors)) == (300, 7)

    def test_columns_that_are_not_read_are_counted(self, container, tmp_path):
        if container == "txt":
            return  # it has one column
        path = written(container, [{"text": "one", "id": "1", "tag": "x"}] * 5, tmp_path)
        assert check_file(path).extra_columns == {"id": 5, "tag": 5}

    def test_columns_of_no_format_are_one_error_of_a_table(self, container, tmp_path):
        if container == "txt":
            return  # it has one column
        path = written(container, [{"word": "one", "id": "1"}] * 5, tmp_path)
        report = check_file(path)
        assert report.num_errors == (1 if container in TABLES else 5)
        reason = 'no known format has just these keys: "word", "id"'
        assert found(report)[0] == (1, reason)
        assert "prompt" in report.errors[0].accepted

    def test_the_beginning_of_a_file_is_told_from_the_whole(self, container, tmp_path, write):
        rows = [{"text": f"text {i}"} for i in range(9)]
        content = written(container, rows, tmp_path).read_bytes()
        for length in range(0, len(content), max(1, len(content) // 150)):
            path = write(f"cut.{container}", content[:length])
            report = check_file(path)
            json.dumps([error.reason for error in report.errors]).encode()
            assert report.num_rows < 9 or report.num_errors or container in {"jsonl", "csv", "txt"}
            try:
                assert len(list(read_rows(path))) == report.num_rows
            except DataError as error:
                assert error.reason in {e.reason for e in report.errors}  # noqa: PT017 - both ways

    def test_a_file_without_rows(self, container, write):
        reason = {
            "parquet": "the file is not Parquet that can be read",
            "arrow": "the file is not Arrow that can be read",
            "csv": "the file is empty",
        }
        path = write(f"rows.{container}", b"")
        report = check_file(path)
        assert (report.num_rows, report.num_errors, report.errors[0].line) == (0, 1, 1)
        if container in reason:
            assert report.errors[0].reason.startswith(reason[container])


class TestWhatAFileIs:
    @pytest.mark.parametrize(
        ("name", "head", "container"),
        [
            ("a.jsonl", b'{"text"', "jsonl"),
            ("a.jsonl", b"[1]", "jsonl"),
            ("a.NDJSON", b"", "jsonl"),
            ("a.json", b"[", "json"),
            ("A.JSON", b'\xef\xbb\xbf \n[{"', "json"),
            ("a.json", b' {"text"', "jsonl"),
            ("a.json", b"", "jsonl"),
            ("a.csv", b"prompt,", "csv"),
            ("a.tsv", b"prompt\t", "csv"),
            ("a.csv", b"[x],y", "csv"),
            ("a.csv", b'\xef\xbb\xbf{"text"', "jsonl"),
            ("a.txt", b"One", "txt"),
            ("a.txt", b"[One]", "txt"),
            ("a.txt", b'{"text"', "jsonl"),
            ("a.parquet", b"PAR1", "parquet"),
            ("a.parquet", b"version https", "parquet"),
            ("a.parquet", b"{", "parquet"),
            ("a.bin", b"PAR1", "parquet"),
            ("a.csv", b"ARROW1\0\0", "arrow"),
            ("a", b"\xff\xff\xff\xff\x10", "arrow"),
            ("a.arrow", b"", "arrow"),
            ("a", b"One", "jsonl"),
            ("a.xlsx", b"PK", "jsonl"),
            ("parquet", b"One", "jsonl"),
        ],
    )
    def test_name_and_first_bytes_tell(self, name, head, container):
        assert container_of(name, head) == container

    @pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.json"])
    def test_what_is_no_text_is_refused_as_a_whole(self, name, write):
        report = check_file(write(name, b"\x1f\x8b\x08\0\0\0\0\0" * 300))
        assert (report.num_rows, report.num_errors) == (0, 1)
        assert report.errors[0].reason.startswith("the file is gzip, not text; JSON Lines, JSON,")

    def test_json_lines_are_read_under_any_name(self, write):
        path = write("rows.txt", b'{"text":"one"}\n{"text":2}\n')
        report = check_file(path)
        assert (report.container, report.num_rows) == ("jsonl", 1)
        assert found(report) == [(2, "text is a number, not a string")]

    def test_a_missing_file_is_no_report(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            check_file(tmp_path / "rows.csv")


class TestArrays:
    @pytest.mark.parametrize(
        ("content", "num_rows", "errors"),
        [
            ('[{"text":"a"},{"text":"b"}]', 2, []),
            ('\ufeff [\n{"text":"a"} ]\n\n', 1, []),
            ('[{"text":"]},{\\"["},{"text":"b"}]', 2, []),
            ("[]", 0, [(1, "the file has no rows")]),
            ('[{"text":"a"},]', 1, [(2, "nothing stands where a row should")]),
            ('[,{"text":"a"}]', 1, [(1, "nothing stands where a row should")]),
            ('[{"text":"a"}', 0, [(1, "the file ends before its array does")]),
            ('[{"text":"a"},{"text":"b', 1, [(2, "the file ends before its array does")]),
            ('[{"text":"a"}}', 0, [(1, "the file ends before its array does")]),
            (
                '[{"text":"a"}},{"text":"b"}]',
                1,
                [(1, 'not JSON: extra data, near "{\\"text\\":\\"a\\"}}"')],
            ),
            ('[{"text":"a"}]x', 1, [(2, "there is something after the array")]),
            ('[{"text":"a"}][{"text":"b"}]', 1, [(2, "there is something after the array")]),
            ('[1,"a",[],null]', 0, [(i + 1, f"the row is {kind}, not an object") for i, kind in
                                    enumerate(("a number", "a string", "an array", "null"))]),
            (
                '[{"text":"a","text":"a"},{"text":"b","x":NaN}]',
                0,
                [
                    (1, 'the key "text" comes twice'),
                    (2, 'NaN is not a JSON number, near "{\\"text\\":\\"b\\",\\"x\\":NaN}"'),
                ],
            ),
            (
                '[{"text":"a" "b"}]',
                0,
                [(1, 'not JSON: expecting \',\' delimiter, near "{\\"text\\":\\"a\\" \\"b\\"}"')],
            ),
        ],
    )  # fmt: skip
    def test_arrays(self, content, num_rows, errors, write):
        report = check_file(write("rows.json", content))
        assert (report.num_rows, found(report)) == (num_rows, errors)
        assert not any("per line" in error.accepted for error in report.errors)

    def test_a_latin_1_byte(self, write):
        report = check_file(write("rows.json", b'[{"text":"caf\xe9"},{"text":"b"}]'))
        assert report.num_rows == 1
        assert "byte 0xe9" in report.errors[0].reason
        assert "iconv" in report.errors[0].accepted

    _VALUES = st.recursive(
        st.none() | st.integers(-5, 5) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(_VALUES),
        indent=st.sampled_from([None, 0, 2]),
        ascii=st.booleans(),
        cuts=st.lists(st.integers(0, 1000)),
    )
    def test_wherever_it_is_cut_the_rows_are_the_same(self, rows, indent, ascii, cuts):
        content = json.dumps(rows, indent=indent, ensure_ascii=ascii).encode(errors="replace")
        places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
        splitter = ArraySplitter(1 << 20)
        pieces = zip(places, [*places[1:], None], strict=True)
        found = [row for start, end in pieces for row in splitter.feed(content[start:end])]
        splitter.finish()
        assert splitter.problem is None
        assert [json.loads(row) for row in found] == json.loads(content)

    def test_every_split_in_two_is_the_same(self):
        content = b'\xef\xbb\xbf[{"a":"\\\\\\"[",\n"b":[1,{}]} , 2]'
        for place in range(len(content)):
            splitter = ArraySplitter(100)
            rows = [*splitter.feed(content[:place]), *splitter.feed(content[place:])]
            assert [row.strip() for row in rows] == [b'{"a":"\\\\\\"[",\n"b":[1,{}]}', b"2"]

    def test_of_a_long_row_only_the_beginning_is_kept(self):
        splitter = ArraySplitter(10)
        splitter.feed(b"[")
        for _ in range(100):
            assert splitter.feed(b'"' + b"x" * 1000 + b'"') == []
        (long,) = splitter.feed(b"]")
        assert len(long) == 11


class TestCsv:
    def test_lines_are_those_on_which_rows_begin(self, write):
        content = (
            "prompt,completion\n" + csv_line("a", "b") + "\n" + csv_line("a\nb\n", "c")
            + csv_line("x", "y")
        )  # fmt: skip
        rows = list(read_rows(write("a.csv", content)))
        assert [(row.line, row.prompt, row.completion) for row in rows] == [
            (2, "a", "b"),
            (4, "a\nb\n", "c"),
            (7, "x", "y"),
        ]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_the_first_line_tells_the_delimiter(self, delimiter, write):
        cells = ["a;b,c\td"], ["e"]
        lines = [("prompt", "completion", "x"), (*cells[0], *cells[1], "")]
        quoted = "\r\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)
        (row,) = read_rows(write("a.csv", "\ufeff" + quoted))
        assert (row.prompt, row.completion) == ("a;b,c\td", "e")

    def test_delimiters_inside_quotes_do_not_count(self, write):
        (row,) = read_rows(write("a.csv", 'prompt,"completion","a;b;c;""d;"\na,b,c\n'))
        assert (row.prompt, row.completion) == ("a", "b")

    def test_an_empty_cell_is_null(self, write):
        content = "instruction,input,system,output\na,,,b\n,x,y,z\n"
        report = check_file(write("a.csv", content))
        assert found(report) == [(3, "instruction is null, not a string")]
        (row,) = read_rows(write("b.csv", content.partition(",x")[0]))
        assert (row.input, row.system) == ("", None)

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"1,2,3", "the row has 3 cells under 2 names"),
            (b"1", "the row has 1 cells under 2 names"),
            (b'"a"b,c', "not CSV: ',' expected after '\"'"),
            (b"caf\xe9,b", "byte 0xe9 is not UTF-8"),
            (b'"x\ncaf\xe9",b', "byte 0xe9 is not UTF-8"),
            (b"a,", "completion is null, not a string"),
            (b"a, ", "completion is empty, so there is nothing to learn"),
        ],
    )
    def test_a_bad_record(self, line, reason, write):
        content = b"prompt,completion\na,b\n" + line + b"\nc,d\n"
        report = check_file(write("a.csv", content))
        assert (report.num_rows, found(report)) == (2, [(3, reason)])

    @pytest.mark.parametrize("rest", [b"", b"x,y\n" * 3])
    def test_a_quote_that_is_not_closed(self, rest, write):
        report = check_file(write("a.csv", b'prompt,completion\na,b\n"c,d\n' + rest))
        assert (report.num_rows, len(report.errors)) == (1, 1)
        assert report.errors[0].line == 3
        assert report.errors[0].reason.startswith("not CSV: ")

    def test_after_a_record_that_is_too_long_the_next_line_is_tried(self, write):
        content = b'text\n"' + b"y" * 80 + b"\n" + b"z" * 80 + b'"\nc\n' + b"x" * 300 + b"\nd\n"
        report = check_file(write("a.csv", content), limits=Limits(max_row_bytes=100))
        too_long = "the row is longer than 100 bytes"
        assert (report.num_rows, found(report)) == (2, [(2, too_long), (5, too_long)])

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("text,text", 'the column "text" comes twice'),
            ("", "the file is empty"),
            ("\n\n", "the file is empty"),
            ('"text"x', "not CSV"),
            ("messages,x", "a cell of such a file is a text, and cannot hold messages"),
            ("conversations", "a cell of such a file is a text, and cannot hold conversations"),
            ("conversation", "a cell of such a file is a text, and cannot hold messages"),
        ],
    )
    def test_bad_names(self, header, reason, write):
        report = check_file(write("a.csv", f"{header}\na,b\n" if header.strip() else header))
        assert (report.num_rows, report.num_errors, report.errors[0].line) == (0, 1, 1)
        assert report.errors[0].reason.startswith(reason)

    def test_names_are_read_without_blanks_and_may_be_left_out(self, write):
        report = check_file(write("a.csv", "\ufeff, text ,\n1,a,2\n"))
        assert (report.num_rows, report.extra_columns) == (1, {"": 2})


class TestText:
    def test_each_line_is_a_text(self, write):
        path = write("a.txt", "\ufeffone \r\n\n \t\r\n two\u2028three\r\nfour")
        assert list(read_rows(path)) == [
            Text(1, "one "),
            Text(4, " two\u2028three"),
            Text(5, "four"),
        ]

    def test_a_bad_line(self, write):
        report = check_file(write("a.txt", b"one\ncaf\xe9\nthree\n"))
        assert (report.num_rows, found(report)) == (2, [(2, "byte 0xe9 is not UTF-8")])


class TestTables:
    @pytest.fixture(params=["parquet", "arrow", "stream"])
    def table(self, request: pytest.FixtureRequest, tmp_path: Path):
        def write(table: pa.Table, **options: Any) -> Path:
            if request.param == "parquet":
                path = tmp_path / "rows.parquet"
                parquet.write_table(table, path, **options)
                return path
            path = tmp_path / "rows.arrow"
            new = ipc.new_file if request.param == "arrow" else ipc.new_stream
            with new(path, table.schema) as writer:
                writer.write_table(table)
            return path

        return write

    def test_a_stream_is_read_like_a_file(self, tmp_path):
        path = tmp_path / "rows.arrow"
        stream([SAMPLES["messages"]] * 7, path)
        expected = list(read_rows(written("jsonl", [SAMPLES["messages"]] * 7, tmp_path)))
        assert list(read_rows(path)) == expected

    def test_what_pads_structs_does_not_reach_the_model(self, table):
        tools = [
            {"function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}},
            {"function": {"name": "g", "parameters": {"properties": {"b": {"type": "string"}}}}},
        ]
        call = {"function": {"name": "f", "arguments": {"a": "x"}}}
        other = {"function": {"name": "g", "arguments": {"b": "y"}}}
        turns = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": None, "tool_calls": [call, other]},
            {"role": "tool", "content": "two", "tool_call_id": "1"},
        ]
        (row,) = read_rows(table(pa.Table.from_pylist([{"messages": turns, "tools": tools}])))
        assert list(row.tools) == tools
        assert list(row.messages[1].tool_calls) == [call, other]
        assert row.messages[0].tool_calls is None

    def test_a_column_that_is_not_read_may_hold_anything(self, table):
        columns = {
            "text": ["a"],
            "x": [float("nan")],
            "y": [b"\xff"],
            "z": pa.array([2**63], "uint64"),
        }
        report = check_file(table(pa.table(columns)))
        assert (report.num_rows, report.extra_columns) == (1, {"x": 1, "y": 1, "z": 1})

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (float("nan"), "tools holds what JSON has not: Out of range float"),
            (b"\xff", "tools holds what JSON has not: Object of type bytes"),
            (pa.scalar(1.5).as_py(), None),
        ],
    )
    def test_values_that_json_has_not(self, value, reason, table):
        tool = {"function": {"name": "f", "parameters": {"default": value}}}
        good = {"function": {"name": "f", "parameters": {"default": None}}}
        turn = {"role": "assistant", "content": "a"}
        rows = [{"messages": [turn], "tools": [each]} for each in (good, tool, good)]
        report = check_file(table(pa.Table.from_pylist(rows)))
        assert report.num_rows == (3 if reason is None else 2)
        assert [error.line for error in report.errors] == ([] if reason is None else [2])
        assert all(error.reason.startswith(reason) for error in report.errors)

    def test_bytes_that_are_no_text(self, table):
        texts = pa.array([b"a", b"caf\xe9", b"c"]).view(pa.string())
        report = check_file(table(pa.table({"text": texts})))
        assert (report.num_rows, [error.line for error in report.errors]) == (2, [2])
        assert "the row cannot be read: " in report.errors[0].reason

    @pytest.mark.parametrize("type_", ["large_string", "dictionary<values=string, indices=int32>"])
    def test_texts_of_every_kind(self, type_, table):
        texts = pa.array(["a", "b", "a"])
        texts = texts.dictionary_encode() if "dictionary" in type_ else texts.cast(type_)
        assert [row.text for row in read_rows(table(pa.table({"text": texts})))] == ["a", "b", "a"]

    def test_a_column_of_another_type(self, table):
        report = check_file(table(pa.table({"text": [1, 2, None]})))
        assert [reason for _, reason in found(report)] == [
            "text is a number, not a string",
            "text is a number, not a string",
            "text is null, not a string",
        ]

    def test_a_map(self, table):
        arguments = pa.array(
            [[("zone", "UTC")], [("a", "b"), ("a", "c")]], pa.map_("string", "string")
        )
        function = pa.StructArray.from_arrays(
            [pa.array(["f", "f"]), arguments], ["name", "arguments"]
        )
        call = pa.StructArray.from_arrays([function], ["function"])
        calls = pa.ListArray.from_arrays(pa.array([0, 1, 2], "int32"), call)
        turn = pa.StructArray.from_arrays(
            [pa.array(["assistant"] * 2), pa.array([None, None], "string"), calls],
            ["role", "content", "tool_calls"],
        )
        path = table(
            pa.table({"messages": pa.ListArray.from_arrays(pa.array([0, 1, 2], "int32"), turn)})
        )
        row = next(read_rows(path))
        assert row.messages[0].tool_calls[0]["function"]["arguments"] == {"zone": "UTC"}
        assert [error.line for error in check_file(path).errors] == [2]

    def test_two_columns_of_one_name(self, table):
        path = table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]))
        assert found(check_file(path)) == [(1, 'the column "text" comes twice')]

    def test_no_rows(self, table):
        path = table(pa.table({"text": pa.array([], "string")}))
        assert found(check_file(path)) == [(1, "the file has no rows")]

    def test_a_conversation_under_its_older_name(self, table):
        turns = [{"role": "USER", "content": "a"}, {"role": "ASSISTANT", "content": "b"}]
        path = table(pa.Table.from_pylist([{"id": 1, "conversation": turns}] * 2))
        report = check_file(path)
        assert (report.format, report.num_rows) == ("messages", 2)
        assert (report.extra_columns, len(report.remarks)) == ({"id": 2}, 1)
        assert [row.messages[0].role for row in read_rows(path, "messages")] == ["user", "user"]

    def test_large_rows_are_looked_at_few_at_a_time(self, table):
        seen = []
        texts = ["x" * 1_000_000] * 40
        path = table(pa.table({"text": texts}), use_dictionary=False, write_batch_size=1)
        del texts
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        for _ in read_rows(path):
            seen.append(pool.bytes_allocated() - before)
        assert len(seen) == 40
        assert max(seen) < 24_000_000


def test_a_changed_byte_is_told_or_changes_a_row(tmp_path: Path):
    """Arrow's own checks hold what a file says of itself against what is there."""
    rows = [SAMPLES["messages"]] * 9
    chance = random.Random(0)
    for container in BINARY:
        content = written(container, rows, tmp_path).read_bytes()
        path = tmp_path / f"changed.{container}"
        for _ in range(200):
            changed = bytearray(content)
            changed[chance.randrange(len(changed))] = chance.randrange(256)
            path.write_bytes(changed)
            report = check_file(path)
            assert report.num_rows + report.num_errors > 0
