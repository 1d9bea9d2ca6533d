"""Ids may be shortened as long as they fit one thing only."""

import json

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
