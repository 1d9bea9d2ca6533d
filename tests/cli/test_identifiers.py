"""Ids may be shortened as long as they fit one thing only."""

import json

import pytest

from cli.errors import CliError
from cli.identifiers import checkpoint_id
from tests.cli.conftest import Deployment, Tunesmith


def test_a_file_is_found_by_the_beginning_of_its_id(
    served: Deployment, tunesmith: Tunesmith
) -> None:
    kept, gone = served.world.file(), served.world.file()
    bare = gone.id.removeprefix("file-")[:10]
    assert tunesmith("files", "delete", bare).out == f"{gone.id} deleted\n"
    listed = json.loads(tunesmith("files", "list", "-o", "json").out)
    assert kept.id in {file["id"] for file in listed}
    assert gone.id not in {file["id"] for file in listed}
    assert tunesmith("files", "delete", kept.id[:15]).code == 0


def test_a_beginning_of_several_ids_lists_them(served: Deployment, tunesmith: Tunesmith) -> None:
    files = [served.world.file() for _ in range(2)]
    result = tunesmith("files", "delete", "file-")
    assert result.code == 1
    assert all(file.id in result.err for file in files)
    assert "begins the ids of" in result.err


def test_a_job_is_found_among_many_pages(served: Deployment, tunesmith: Tunesmith) -> None:
    file = served.world.file()
    jobs = [served.world.submit(training_file=file.id) for _ in range(102)]
    first = jobs[0].id
    assert len(json.loads(tunesmith("jobs", "--limit", 101, "-o", "json").out)) == 101
    assert tunesmith("job", first.removeprefix("ftjob-")[:14]).out.startswith(
        f"id             {first}"
    )


def test_an_unknown_beginning_says_so(tunesmith: Tunesmith) -> None:
    result = tunesmith("job", "zzz")
    assert (result.code, result.out) == (1, "")
    assert result.err == "tunesmith: no job has an id that begins with 'zzz'\n"


def test_a_key_is_found_by_its_name(tunesmith: Tunesmith) -> None:
    assert tunesmith("key", "create", "Ada").out.startswith("sk-tunesmith-")
    assert tunesmith("key", "revoke", "Ada").out.endswith(" revoked\n")
    assert "Ada" not in tunesmith("key", "list").out


def test_a_name_of_several_keys_lists_them(tunesmith: Tunesmith) -> None:
    for _ in range(2):
        tunesmith("key", "create", "Grace")
    keys = json.loads(tunesmith("key", "list", "-o", "json").out)
    ids = [key["id"] for key in keys if key["name"] == "Grace"]
    result = tunesmith("key", "revoke", "Grace")
    assert (result.code, len(ids)) == (1, 2)
    assert result.err == f"tunesmith: 'Grace' names 2 API keys: {', '.join(ids)}\n"
    assert all(tunesmith("key", "revoke", each).code == 0 for each in ids)


def test_a_checkpoint_by_its_step_or_the_beginning_of_its_id() -> None:
    saved = [
        {"id": "ftckpt_77aa", "step_number": 20},
        {"id": "ftckpt_31bb", "step_number": 10},
    ]
    assert checkpoint_id(saved, "10") == "ftckpt_31bb"
    assert checkpoint_id(saved, "77") == "ftckpt_77aa"
    with pytest.raises(CliError, match="no checkpoint of step 3; there are 20, 10"):
        checkpoint_id([saved[0], {**saved[1], "id": "ftckpt_cc"}], "3")
    with pytest.raises(CliError, match="no checkpoint of step 3; there are none yet"):
        checkpoint_id([], "3")
