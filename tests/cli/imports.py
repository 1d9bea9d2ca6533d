"""What an import printed, for tests to look at."""

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import Tunesmith


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key, {})
    return None if value == {} else value


def noted(printed: str) -> set[str]:
    """The keys of the lines on standard error that begin with two blanks."""
    lines = [line[2:] for line in printed.splitlines() if line.startswith("  ")]
    return {line.partition(": ")[0] for line in lines if not line.startswith("tunesmith")}


def imported(tunesmith: Tunesmith, text: str) -> tuple[Any, str]:
    Path("source").write_text(text)
    found = tunesmith("import", "source")
    return json.loads(found.out) if found.code == 0 else None, found.err


AXOLOTL = "base_model: m\ndatasets: a.json\n"
LLAMA_FACTORY = "model_name_or_path: m\ndataset: a.json\n"
