"""The reference of the job body names every key that the server accepts."""

import json
import re
from pathlib import Path

from pydantic import BaseModel

from jobs.requests import JobRequest
from training.config import TrainingConfig
from training.refused_keys import REFUSED
from training.spellings import FLAT, SPELLINGS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "job.md").read_text()
SEED_PAGE = (DOCS / "seed.md").read_text()


def _keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_every_key_of_the_body_is_explained():
    named = set(re.findall(r"`([a-z0-9_]+)[`:]", PAGE))
    sections = [
        field.annotation
        for field in TrainingConfig.model_fields.values()
        if isinstance(field.annotation, type)
    ]
    keys = (_keys(JobRequest) - {"training_files"}).union(*(_keys(section) for section in sections))
    assert len(sections) == len(TrainingConfig.model_fields)
    assert keys - named == set()


SEED_ROWS = [line.split("|") for line in SEED_PAGE.splitlines() if line.startswith("| `")]


def _names(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z0-9_]+)`", cell))


def test_every_older_spelling_is_listed():
    listed = set().union(*(_names(row[1]) for row in SEED_ROWS))
    assert set(FLAT).union(*SPELLINGS.values()) - listed == set()


def test_what_takes_the_place_of_a_refused_key_is_written_down():
    for key, refusal in REFUSED.items():
        (row,) = (row for row in SEED_ROWS if key in _names(row[1]))
        assert row[2].strip() == refusal.words


def test_what_is_let_through_of_a_refused_key_is_written_down():
    for key, refusal in REFUSED.items():
        (row,) = (row for row in SEED_ROWS if key in _names(row[1]))
        told = set(row[3].strip().split(", "))
        plain = [each for each in refusal.harmless if isinstance(each, bool | int | str)]
        shown = {each if isinstance(each, str) else json.dumps(each) for each in plain} - {""}
        assert shown <= told or refusal.kinds, key
