"""`docs/openai.md` holds: its example runs as it stands, and its table has every method."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.sdk.service import Service, Team
from tests.sdk.work import ROWS
from tests.worker.deployment import ROOT

_PAGE = (ROOT / "docs" / "openai.md").read_text()
_RESOURCES = (
    "files",
    "uploads",
    "uploads.parts",
    "fine_tuning.jobs",
    "fine_tuning.jobs.checkpoints",
    "fine_tuning.checkpoints.permissions",
    "models",
    "webhooks",
    "webhooks.event_types",
)
_NEWEST_ONLY = "3.x only"


def test_the_example_runs(openai: Any, service: Service, team: Team, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    (tmp_path / "tickets.jsonl").write_bytes(ROWS)
    done = subprocess.run(
        [sys.executable, "-c", example.replace("my-base", "tiny")],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(openai.__file__).parents[1]),
            "OPENAI_BASE_URL": service.url,
            "OPENAI_API_KEY": team.secret,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"ft:tiny:{team.organization}:tickets:")
    assert "step,train_loss" in done.stdout


def test_every_method_is_in_the_table(openai: Any, client: Any) -> None:
    newest = not openai.__version__.startswith("1.")
    documented = _documented(newest=newest)
    assert documented.keys() == set(_RESOURCES) - (set() if newest else {"webhooks.event_types"})
    for resource, methods in documented.items():
        only_newest = {"list"} if resource.endswith("permissions") and not newest else set()
        assert _methods(client, resource) == methods - only_newest, resource


def _documented(*, newest: bool) -> dict[str, set[str]]:
    """Methods by resource, of the rows that are for this client."""
    found: dict[str, set[str]] = {}
    for first, rest in re.findall(r"^\| (`client\..*?) \|(.*)\|$", _PAGE, re.MULTILINE):
        if _NEWEST_ONLY in rest and not newest:
            continue
        names = re.findall(r"`([^`]+)`", first)
        resource, _, name = names[0].removeprefix("client.").rpartition(".")
        methods = {name, *(other.removeprefix(".") for other in names[1:])}
        found.setdefault(resource, set()).update(methods)
    return found


def _methods(client: Any, resource: str) -> set[str]:
    for name in resource.split("."):
        client = getattr(client, name)
    return {
        name
        for name, value in inspect.getmembers(type(client))
        if inspect.isfunction(value) and not name.startswith("_")
    }
