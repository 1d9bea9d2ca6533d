"""docs/failures.md lists every way a job can fail, with whose fault it is, as the code says it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text()
HANDED_ON = {"training/failures.py", "training/inspection.py"}
"""Where a code is a parameter; each value it takes is made elsewhere, too."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every place of the code that makes a failure, and where it is."""
    for package in ("jobs", "training", "worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Name) and called.id in {"Failure", "RunError"}:
                    assert isinstance(node, ast.Call)
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    return named | dict(zip(("code", "message"), call.args, strict=False))


def constant(value: ast.expr) -> str | None:
    """The text of a literal, with `N` for what is put into it; None for what is handed on."""
    if isinstance(value, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "N" for p in value.values)
        return "".join(map(str, parts))
    return value.value if isinstance(value, ast.Constant) else None


def listed() -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .+ \| .+ \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a code is listed twice"
    return dict(rows)


def made() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for place, call in calls():
        given = keywords(call)
        code, fault = constant(given["code"]), constant(given["fault"])
        if code is None or fault is None:
            assert place.partition(":")[0] in HANDED_ON, place
        else:
            found.setdefault(code, set()).add(fault)
    return found


def test_every_code_is_listed_with_its_fault_and_no_other() -> None:
    assert {code: {fault} for code, fault in listed().items()} == made()


def test_every_failure_says_what_to_do() -> None:
    places = {place: keywords(call) for place, call in calls()}
    assert len(places) > 20
    assert [place for place, given in places.items() if "remedy" not in given] == []


def test_what_was_promised_is_there() -> None:
    promised = {
        "gpu_out_of_memory", "host_out_of_memory", "model_gated", "model_missing",
        "model_fetch_failed", "disk_full", "invalid_data", "worker_lost", "nan_loss", "signal_N",
        "max_runtime_exceeded", "max_pending_exceeded", "hung",
    }  # fmt: skip
    assert promised <= listed().keys()
