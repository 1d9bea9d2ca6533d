"""The reference of the job body names every key that the server accepts."""

import re
from pathlib import Path

from pydantic import BaseModel

from jobs.requests import JobRequest
from training.config import TrainingConfig
from training.spellings import SPELLINGS

PAGE = (Path(__file__).parents[2] / "docs" / "job.md").read_text()


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


def test_every_older_spelling_is_listed():
    listed = PAGE.split("## Older spellings")[1].split("## Data")[0]
    for section in SPELLINGS.values():
        for old in section:
            assert f"`{old}`" in listed
