"""The commands of the README, run as they are printed, against a server with a tiny model."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.serving import ROOT, Serving

README = (ROOT / "README.md").read_text()
MODEL = "smollm2-135m-instruct"
PRINTED_URL = "http://127.0.0.1:8642"


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_every_linked_page_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"[A-Z]+_OUTPUT|TODO", README)


def test_every_make_verb_of_the_readme_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = re.findall(r"make ([a-z-]+)", README)
    assert {"demo", "test", "help"} <= set(verbs)
    assert [verb for verb in verbs if f"\n{verb}:" not in makefile] == []


@pytest.mark.slow
def test_the_three_calls_work_as_printed(tmp_path: Path) -> None:
    serving = Serving(tmp_path)
    try:
        serving.add_model(tmp_path / "model", MODEL)
        _look_like_a_checkout(tmp_path)
        printed = "\n".join(shell_blocks()[1:])  # the first one starts the server
        assert printed.count("curl ") == 3
        done = subprocess.run(
            ["bash", "-e", "-c", printed.replace(PRINTED_URL, serving.url)],
            cwd=tmp_path,
            env=serving.environment(),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert '"status":"succeeded"' in done.stdout
        assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 0
    finally:
        serving.close()


def _look_like_a_checkout(folder: Path) -> None:
    """Give the commands what they name: the demo's data folder, the example, and the CLI."""
    (folder / "demo").mkdir()
    (folder / "demo" / "data").symlink_to(folder / "data")
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    script = bin_folder / "tunesmith"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cli.main "$@"\n')
    script.chmod(0o755)
    (folder / "examples" / "tickets").mkdir(parents=True)
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows = folder / "examples" / "tickets" / "tickets.jsonl"
    rows.write_text(f"{json.dumps(row)}\n" * 8)
