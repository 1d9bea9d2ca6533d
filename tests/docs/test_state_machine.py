"""docs/state_machine.md draws what jobs/states.py says."""

import re
from pathlib import Path

from jobs.states import MOVES, SETTLE, TERMINAL, Intent, JobStatus, RunOutcome

PAGE = (Path(__file__).parents[2] / "docs" / "state_machine.md").read_text()
END = "[*]"


def test_the_picture_has_every_move_and_no_other() -> None:
    arrows = set(re.findall(r"^ +(\S+) --> (\S+)$", PAGE, re.MULTILINE))
    drawn = {(before, after) for before, after in arrows if END not in (before, after)}
    assert drawn == {(before, after) for before, following in MOVES.items() for after in following}
    assert {before for before, after in arrows if after == END} == TERMINAL


def test_the_table_has_every_outcome_with_every_intent() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("|")
    ]
    header, _rule, *body = rows
    intents = [None if name == "no intent" else Intent(name) for name in header[1:]]
    told = {
        RunOutcome(outcome): dict(zip(intents, map(JobStatus, cells), strict=True))
        for outcome, *cells in body
    }
    assert told == {outcome: dict(row) for outcome, row in SETTLE.items()}
