"""Submitting, looking and cancelling: what is printed, and what the exit code says."""

import json
import re
import threading
import time
from pathlib import Path

import pytest

from cli.client import Client
from cli.errors import ServerAwayError
from jobs.models import Job
from jobs.service.records import record_log
from jobs.states import OPEN, RunOutcome
from tests.cli.conftest import Deployment, Tunesmith
from tests.jobs.world import CHAT_ROW, World, fence_of, offer


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """A job file beside its data, which it names by a relative path."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(CHAT_ROW) + "\n")
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"model": "tiny", "training_file": "rows.jsonl", "suffix": "t"}))
    return path


def end_next_job(world: World, outcome: RunOutcome) -> threading.Thread:
    """Claim the next job as a worker would, and end it a moment later."""

    def work() -> None:
        while (claimed := world.claim(offer())) is None:
            time.sleep(0.05)
        world.finish(claimed, outcome)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def nothing_else_waits(served: Deployment) -> None:
    for job in served.world.all(Job):
        if job.status in OPEN:
            served.world.cancel(job)


def test_submit_uploads_the_data_and_prints_the_id_and_what_to_do_next(
    tunesmith: Tunesmith, job_file: Path
) -> None:
    result = tunesmith("submit", job_file)
    job_id = result.out.strip()
    assert result.code == 0
    assert job_id.startswith("ftjob-")
    assert "Uploaded rows.jsonl" in result.err
    assert f"tunesmith logs -f {job_id}" in result.err
    shown = json.loads(tunesmith("job", job_id, "-o", "json").out)
    assert shown["training_file"].startswith("file-")
    assert tunesmith("cancel", job_id[:14]).out == f"{job_id} cancelled\n"


def test_what_is_uploaded_for_a_job_that_is_refused_is_deleted_again(
    served: Deployment, tunesmith: Tunesmith, job_file: Path
) -> None:
    kept = served.world.file().id
    first = served.world.submit(training_file=kept).id
    rerun = ("rerun", first, "--set", "training_file=rows.jsonl", "--set", "seed=-1")
    before = listed(tunesmith)
    body = {**json.loads(job_file.read_text()), "validation_file": kept, "seed": -1}
    job_file.write_text(json.dumps(body))
    for command in (("submit", job_file), rerun):
        refused = tunesmith(*command)
        assert refused.code == 1
        sent = re.search(r"Uploaded rows.jsonl .* as (file-\w+)", refused.err)
        assert sent is not None, refused.err
        assert f"Deleted rows.jsonl ({sent[1]}) again" in refused.err
        assert refused.err.splitlines()[-1].startswith("tunesmith: seed should be")
    assert listed(tunesmith) == before
    assert kept in before


def listed(tunesmith: Tunesmith) -> set[str]:
    return {file["id"] for file in json.loads(tunesmith("files", "list", "-o", "json").out)}


def test_of_two_files_the_one_with_bad_rows_stays_for_its_report(
    tunesmith: Tunesmith, job_file: Path
) -> None:
    (job_file.parent / "bad.jsonl").write_text("{}\n")
    body = {**json.loads(job_file.read_text()), "validation_file": "bad.jsonl"}
    job_file.write_text(json.dumps(body))
    refused = tunesmith("submit", job_file)
    assert "Deleted rows.jsonl" in refused.err
    bad = re.search(r"GET /v1/files/(file-\w+)/report", refused.err)
    assert bad is not None, refused.err
    assert bad[1] in listed(tunesmith)


def test_if_the_reply_is_lost_the_files_stay(
    tunesmith: Tunesmith, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job may be there. No server of ours breaks off at will, so the client is told it did."""
    monkeypatch.setattr(Client, "post", broken_off)
    before = listed(tunesmith)
    refused = tunesmith("submit", job_file)
    assert refused.err.endswith("tunesmith: the connection broke\n")
    assert len(listed(tunesmith) - before) == 1


def broken_off(*_request: object) -> None:
    raise ServerAwayError("the connection broke")


@pytest.mark.parametrize(("outcome", "code"), [(RunOutcome.SUCCEEDED, 0), (RunOutcome.FAILED, 1)])
def test_the_exit_code_says_whether_the_job_succeeded(
    served: Deployment, tunesmith: Tunesmith, job_file: Path, outcome: RunOutcome, code: int
) -> None:
    worker = end_next_job(served.world, outcome)
    result = tunesmith("submit", job_file, "--wait")
    worker.join()
    job_id = result.out.strip()
    assert result.code == code
    assert f"{job_id} {outcome.value}" in result.err
    assert tunesmith("job", job_id, "--wait").code == code
    assert tunesmith("logs", "-f", job_id).code == code
    assert tunesmith("logs", job_id).code == 0


def test_the_last_lines_of_a_log(served: Deployment, tunesmith: Tunesmith, job_file: Path) -> None:
    job_id = tunesmith("submit", job_file).out.strip()
    claimed = served.world.claim(offer())
    assert claimed is not None
    for number, chunk in enumerate(("one\ntwo\n", "thr", "ee\nfour\n"), 1):
        with served.world.db.writing() as session:
            record_log(session, fence_of(claimed), chunk, log_bytes=number)
    served.world.finish(claimed, RunOutcome.SUCCEEDED)
    assert tunesmith("logs", job_id).out == "one\ntwo\nthree\nfour\n"
    for tail in (("--tail", 3), ("--tail", 3, "--follow")):
        assert tunesmith("logs", job_id, *tail).out == "two\nthree\nfour\n"
    for tail in (("--tail", 0), ("--tail", 0, "--follow")):
        assert tunesmith("logs", job_id, *tail).out == ""


def test_a_failure_is_told_with_its_remedy(
    served: Deployment, tunesmith: Tunesmith, job_file: Path
) -> None:
    worker = end_next_job(served.world, RunOutcome.FAILED)
    result = tunesmith("submit", job_file, "--wait")
    worker.join()
    assert "failed: it went wrong mend it" in result.err


def test_a_job_is_paused_resumed_and_stopped(
    served: Deployment, tunesmith: Tunesmith, job_file: Path
) -> None:
    job_id = tunesmith("submit", job_file).out.strip()
    assert tunesmith("pause", job_id).out == f"{job_id} paused\n"
    assert tunesmith("resume", job_id).out == f"{job_id} queued\n"
    refused = tunesmith("stop", job_id)
    assert refused.code == 1
    assert refused.err == "tunesmith: nothing is trained yet; cancel the job instead\n"
    claimed = served.world.claim(offer())
    assert claimed is not None
    asked = tunesmith("stop", job_id)
    assert asked.out == f"{job_id} running\n"
    assert f"tunesmith resume {job_id}" in asked.err
    assert "intent         stop" in tunesmith("job", job_id).out
    served.world.finish(claimed, RunOutcome.SUCCEEDED)
    assert tunesmith("pause", job_id).err == "tunesmith: the job has succeeded already\n"


def test_a_cancelled_job_has_not_succeeded(tunesmith: Tunesmith, job_file: Path) -> None:
    job_id = tunesmith("submit", job_file).out.strip()
    tunesmith("cancel", job_id)
    assert tunesmith("job", job_id, "--wait").code == 1
    assert tunesmith("download", job_id).err.endswith("is cancelled and has no adapter\n")


def test_lists_are_whole_in_a_pipe_and_json_on_request(
    tunesmith: Tunesmith, job_file: Path
) -> None:
    job_id = tunesmith("submit", job_file).out.strip()
    header, *rows = tunesmith("jobs").out.splitlines()
    assert header.split() == ["ID", "STATUS", "MODEL", "SUFFIX", "PROGRESS", "CREATED"]
    assert rows[0].split()[:4] == [job_id, "queued", "tiny", "t"]
    assert json.loads(tunesmith("jobs", "-o", "json").out)[0]["id"] == job_id
    assert tunesmith("jobs", "--limit", "1").out.count("\n") == 2
    assert "Created fine-tuning job" in tunesmith("events", job_id).out
    assert tunesmith("checkpoints", job_id).out.split()[:2] == ["ID", "STEP"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold one JSON object"),
        ('{"model": "tiny", "training_file": "gone.jsonl"}', "neither a file id nor a file"),
        ('{"model": "tiny", "training_file": "rows.jsonl", "lora": 1}', "lora: unknown key"),
        ('{"model": "none", "training_file": "rows.jsonl"}', "none"),
        ('{"model": "tiny", "training_files": [{"file": "gone"}]}', "neither a file id nor a file"),
    ],
)
def test_a_bad_job_file_is_one_line_and_no_job(
    tunesmith: Tunesmith, job_file: Path, content: str, reason: str
) -> None:
    before = tunesmith("jobs").out
    job_file.write_text(content)
    result = tunesmith("submit", job_file)
    assert (result.code, result.out) == (1, "")
    last_line = result.err.splitlines()[-1]
    assert last_line.startswith("tunesmith: ")
    assert reason in last_line
    assert tunesmith("jobs").out == before


def test_bad_rows_are_told_before_anything_is_submitted(
    tunesmith: Tunesmith, job_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(CHAT_ROW) + "\n{\n")
    result = tunesmith("submit", job_file)
    assert (result.code, result.out) == (1, "")
    assert "line 2" in result.err.lower()
