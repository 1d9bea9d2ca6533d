"""A job printed as a job file, sent again with changes, and what it waits for."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Deployment, Tunesmith
from tests.jobs.world import CHAT_ROW


@pytest.fixture
def first(served: Deployment) -> str:
    job = served.world.submit(training_file=served.world.file().id, seed=7, suffix="t")
    return job.id


def shown(tunesmith: Tunesmith, job_id: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(tunesmith("job", job_id, "-o", "json").out)
    return found


def test_a_spec_can_be_submitted(tunesmith: Tunesmith, first: str, tmp_path: Path) -> None:
    printed = tunesmith("spec", first[:16])
    assert printed.code == 0
    path = tmp_path / "again.json"
    path.write_text(printed.out)
    again = shown(tunesmith, tunesmith("submit", path).out.strip())
    before = shown(tunesmith, first)
    assert [again[key] for key in ("seed", "training", "training_file", "suffix")] == [
        before[key] for key in ("seed", "training", "training_file", "suffix")
    ]


def test_a_rerun_takes_changes(tunesmith: Tunesmith, first: str) -> None:
    result = tunesmith(
        "rerun", first,
        "--set", "training.adapter.r=4",
        "--set", "training.optimization.learning_rate=5e-5",
        "--set", "metadata.team=blue=green",
        "--set", "suffix=null",
    )  # fmt: skip
    assert result.code == 0, result.err
    job = shown(tunesmith, result.out.strip())
    training = job["training"]
    assert isinstance(training, dict)
    assert (training["adapter"]["r"], training["optimization"]["learning_rate"]) == (4, 5e-5)
    assert (job["metadata"], job["suffix"]) == ({"team": "blue=green"}, None)
    assert job["rerun_of"] == first
    fields = [line.split() for line in tunesmith("job", str(job["id"])).out.splitlines()]
    assert ["rerun", "of", first] in fields


def test_a_data_file_may_be_a_local_path(tunesmith: Tunesmith, first: str, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text(json.dumps(CHAT_ROW) + "\n")
    result = tunesmith("rerun", first, "--set", "training_file=other.jsonl")
    assert "Uploaded other.jsonl" in result.err
    again = shown(tunesmith, result.out.strip())
    assert again["training_file"] != shown(tunesmith, first)["training_file"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training"], "dotted key and a value"),
        (["=3"], "dotted key"),
        (["a..b=3"], "dotted key"),
        (["seed=1", "seed=2"], "another --set"),
        (["training=1", "training.adapter=2"], "another --set"),
        (["training.adapter.r=1", "training.adapter={}"], "another --set"),
        (["training.adapter.rank=1"], "training.adapter.rank: unknown key"),
        (["seed=-1"], "seed should be"),
    ],
)
def test_changes_that_cannot_be_used_are_one_line(
    tunesmith: Tunesmith, first: str, settings: list[str], words: str
) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    result = tunesmith("rerun", first, *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("tunesmith: ")
    assert words in result.err
    assert result.err.count("\n") == 1


def test_a_queued_job_says_what_it_waits_for(served: Deployment, tunesmith: Tunesmith) -> None:
    file = served.world.file().id
    job = served.world.submit(training_file=file, resources={"pool": "empty"})
    said = "no worker of pool empty has been seen in the last minute"
    assert said in tunesmith("job", job.id).out
