"""A data file is checked by a process that can do nothing else, and tells what it has found."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.training.container_files import written
from training.check_process import read_report
from training.data_files import check_file

ROOT = Path(__file__).parents[2]
TEXTS = [{"text": "one"}, {"text": "two"}, {"text": "three"}]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "training", "check", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def confined(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a program that has confined itself."""

    def confined(program: str) -> subprocess.CompletedProcess[str]:
        begin = (
            "import os, signal, socket, subprocess, threading\n"
            "from training.confinement import OutOfTime, confine\n"
            "assert confine(max_memory_bytes=1 << 30, max_cpu_seconds=2)\n"
        )
        return subprocess.run(
            [sys.executable, "-P", "-c", begin + program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return confined


class TestTheCommand:
    def test_good_rows(self, tmp_path):
        path, report = written("parquet", TEXTS, tmp_path), tmp_path / "report.json"
        done = run(path, "-o", report)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "rows.parquet (parquet): 3 good rows of format text\n"
        assert read_report(report) == check_file(path)

    def test_rows_that_are_refused(self, tmp_path):
        rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}] * 5
        done = run(written("csv", rows, tmp_path), "--max-errors", 4)
        assert done.returncode == 4
        assert json.loads(done.stdout)["num_errors"] == 5
        assert len(json.loads(done.stdout)["errors"]) == 4
        assert done.stderr.splitlines()[:2] == [
            "rows.csv (csv): 5 good rows of format prompt_completion, 5 refused",
            "  line 3: completion is null, not a string",
        ]

    def test_what_is_odd_is_told(self, tmp_path):
        turns = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
        done = run(written("json", [{"messages": turns}], tmp_path), "--format", "messages")
        assert done.stderr.splitlines()[1:] == [
            "  the assistant begins: 1",
            "  turns after the last answer, which are not read: 1",
        ]

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--format", "messages"], "a row of format text in a file of format messages"),
            (["--max-rows", "2"], "the file has more than 2 rows, the most that is accepted"),
            (["--max-row-bytes", "4"], "the row is longer than 4 bytes"),
        ],
    )
    def test_what_may_be_asked_for(self, options, reason, tmp_path):
        done = run(written("json", TEXTS, tmp_path), *options)
        assert done.returncode == 4
        assert reason in {error["reason"] for error in json.loads(done.stdout)["errors"]}

    def test_a_file_that_is_not_there(self, tmp_path):
        done = run(tmp_path / "rows.parquet")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("rows.parquet cannot be read: No such file or directory\n")


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of 200 MiB in some kilobytes."""
    path = tmp_path_factory.mktemp("bomb") / "rows.parquet"
    table = pa.table({"text": ["a" * (200 << 20)]})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    return path


class TestBombs:
    def test_memory_ends_it_in_one_sentence(self, bomb):
        done = run(bomb, "--max-memory-bytes", 450_000_000)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "reading the file takes more than 450000000 bytes of memory: rows, pages or row "
            "groups of it are too large, or made to fill the memory\n"
        )

    def test_so_much_memory_does_for_others(self, tmp_path):
        done = run(written("parquet", TEXTS, tmp_path), "--max-memory-bytes", 450_000_000)
        assert done.returncode == 0

    def test_with_more_memory_it_is_a_row_that_is_too_long(self, bomb):
        done = run(bomb)
        assert done.returncode == 4
        assert "the row is longer than 4194304 bytes" in done.stderr

    def test_time_ends_it_in_one_sentence(self, tmp_path):
        path = tmp_path / "rows.txt"
        path.write_bytes(b"one two\n" * 4_000_000)
        done = run(path, "--max-cpu-seconds", 1)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "reading the file takes more than 1 seconds of processor time\n"

    def test_a_file_is_mapped_beside_its_memory(self, tmp_path):
        path = written("arrow", [{"text": "a" * 4_000_000}] * 75, tmp_path)
        assert path.stat().st_size > 290_000_000
        assert run(path, "--max-memory-bytes", 600_000_000).returncode == 0


class TestConfinement:
    @pytest.mark.parametrize(
        "deed",
        [
            "socket.socket()",
            "socket.socketpair()",
            "socket.socket(socket.AF_UNIX)",
            "open('new', 'w')",
            "open('old', 'a')",
            "open('old', 'r+')",
            "os.open('old', os.O_RDWR)",
            "os.truncate('old', 0)",
            "os.unlink('old')",
            "os.rename('old', 'new')",
            "os.link('old', 'new')",
            "os.symlink('old', 'new')",
            "os.mkdir('new')",
            "os.mkfifo('new')",
            "os.chmod('old', 0)",
            "subprocess.run(['true'])",
            "os.execv('/bin/true', ['true'])",
            "os.kill(os.getppid(), signal.SIGTERM)",
        ],
    )
    def test_what_is_not_needed_is_refused(self, deed, confined, tmp_path):
        (tmp_path / "old").write_text("old")
        done = confined(f"{deed}\n")
        assert done.returncode == 1
        assert "PermissionError" in done.stderr.splitlines()[-1]
        assert (tmp_path / "old").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["old"]

    def test_threads_cannot_either(self, confined):
        done = confined(
            "def deed():\n"
            "    try: socket.socket()\n"
            "    except PermissionError: print('refused')\n"
            "thread = threading.Thread(target=deed); thread.start(); thread.join()\n"
        )
        assert done.stdout == "refused\n"

    def test_memory_is_limited(self, confined):
        assert "MemoryError" in confined("bytearray(1 << 30)\n").stderr

    def test_time_is_limited(self, confined):
        done = confined("try:\n    while True: sum(range(1000))\nexcept OutOfTime: print('over')\n")
        assert done.stdout == "over\n"

    @pytest.mark.slow
    def test_who_goes_on_is_killed(self, confined):
        done = confined("signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass\n")
        assert done.returncode < 0

    def test_reading_is_allowed(self, confined, tmp_path):
        (tmp_path / "old").write_text("old")
        assert confined("print(open('old').read(), os.listdir())\n").stdout == "old ['old']\n"


def test_a_report_that_cannot_be_written_is_no_fault_of_the_data(tmp_path: Path):
    done = run(written("jsonl", TEXTS, tmp_path), "-o", tmp_path / "no" / "report.json")
    assert (done.returncode, done.stdout) == (1, "")
    report = f"--output {tmp_path}/no/report.json"
    assert done.stderr == f"{report} cannot be written: No such file or directory\n"


def test_a_report_that_is_none(tmp_path: Path):
    path = tmp_path / "report.json"
    for content in ("", "{}", '{"format": "other"}'):
        path.write_text(content)
        with pytest.raises(ValueError):  # noqa: PT011 - pydantic's
            read_report(path)


def test_a_report_is_read_as_it_was_written(tmp_path: Path):
    rows: list[dict[str, Any]] = [{"text": "one", "x": 1}, {"text": 2}]
    path = written("jsonl", rows, tmp_path)
    report = tmp_path / "report.json"
    assert run(path, "-o", report).returncode == 4
    assert read_report(report) == check_file(path)
