"""Which server and key a command uses, and what it says when there is none."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Deployment, Tunesmith


@pytest.fixture
def data_dir(tmp_path: Path, tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `serve` leaves it, and an environment that names nothing else."""
    monkeypatch.delenv("TUNESMITH_URL")
    monkeypatch.delenv("TUNESMITH_API_KEY")
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_the_data_folder_names_server_and_key(
    served: Deployment, tunesmith: Tunesmith, data_dir: Path
) -> None:
    (data_dir / "server.json").write_text(json.dumps({"url": served.url, "pid": 1}))
    (data_dir / "admin.key").write_text(f"{served.world.secret}\n")
    assert "tiny" in tunesmith("models", "list").out


def test_without_a_server_it_says_how_to_start_one(tunesmith: Tunesmith, data_dir: Path) -> None:
    result = tunesmith("jobs")
    assert result.code == 1
    assert "start one with `tunesmith serve`" in result.err
    assert result.err.count("\n") == 1


def test_the_local_key_goes_to_no_other_machine(
    served: Deployment, tunesmith: Tunesmith, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "admin.key").write_text(served.world.secret)
    monkeypatch.setenv("TUNESMITH_URL", "http://tunesmith.example:8642")
    result = tunesmith("jobs")
    assert (
        result.err == "tunesmith: set TUNESMITH_API_KEY to a key of http://tunesmith.example:8642\n"
    )


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://127.0.0.1:1", "k", "no server answers at http://127.0.0.1:1"),
        ("http://127.0.0.1:1/v1/", "k", "no server answers at http://127.0.0.1:1:"),
        ("ftp://127.0.0.1", "k", "is not an address"),
        (None, "wrong", "the API key is not valid"),
    ],
)
def test_a_wrong_address_or_key_is_one_line(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch, url: str | None, key: str, said: str
) -> None:
    if url is not None:
        monkeypatch.setenv("TUNESMITH_URL", url)
    monkeypatch.setenv("TUNESMITH_API_KEY", key)
    result = tunesmith("jobs")
    assert (result.code, result.out) == (1, "")
    assert said in result.err
    assert result.err.count("\n") == 1


def test_wrong_usage_is_exit_code_2(tunesmith: Tunesmith) -> None:
    assert tunesmith("job").code == 2
    assert tunesmith("no-such-verb").code == 2
