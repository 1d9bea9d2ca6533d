"""Uploads that are not JSON Lines: kept at once, read by a worker alone, waited for by jobs."""

from pathlib import Path

import pytest
from openai import OpenAI

from jobs.models import new_id
from jobs.service.endings import Ending
from jobs.states import RunKind, RunOutcome
from tests.api.deployment import ROWS, Client, Deployment, ok, refused
from tests.jobs.world import offer
from tests.training.container_files import WRITERS, as_bytes
from training.events import Failure
from training.file_check import FileReport, RowError

TEXTS = [{"text": "one"}, {"text": "two"}]
CHECKED_LATER = [name for name in WRITERS if name != "jsonl"]
GOOD = FileReport("text", 2, 0, (), {}, {}, "csv")
BAD = FileReport(None, 0, 1, (RowError(1, None, "a reason", "b."),), {}, {}, "parquet")
LARGE = Failure(code="file_unreadable", message="it is large", fault="data", remedy="less")


def check(deployment: Deployment, file_id: str, ending: Ending) -> None:
    """What a worker does with the only file that waits."""
    claimed = deployment.claim(offer(new_id("worker-"), pool="checks"))
    assert claimed is not None
    assert (claimed.kind, claimed.file_id) == (RunKind.CHECK, file_id)
    deployment.finish(claimed, ending)


@pytest.fixture
def waiting(deployment: Deployment, admin: Client) -> str:
    """An upload that waits; its test has it checked."""
    name = "rows.parquet"
    return str(admin.upload(b"PAR1" + bytes(50) + b"PAR1", name=name)["id"])


@pytest.mark.parametrize("container", CHECKED_LATER)
@pytest.mark.parametrize("sent", ["whole", "in parts"])
def test_every_container_is_kept_without_being_read(
    container: str, sent: str, deployment: Deployment, admin: Client, sdk: OpenAI,
    tmp_path: Path,
) -> None:  # fmt: skip
    content = as_bytes(container, TEXTS, tmp_path)
    if sent == "in parts":
        done = sdk.uploads.upload_file_chunked(
            file=tmp_path / f"rows.{container}", mime_type="any/thing", purpose="fine-tune",
            part_size=7 if len(content) < 100 else 700,
        )  # fmt: skip
        assert done.file is not None
        file_id = done.file.id
    else:
        file_id = admin.upload(content, name=f"rows.{container}")["id"]
    file = ok(admin.http.get(f"/files/{file_id}"))
    assert (file["status"], file["status_details"]) == ("uploaded", None)
    assert (file["container"], file["format"], file["num_rows"]) == (container, None, None)
    assert admin.http.get(f"/files/{file_id}/content").content == content
    error = refused(admin.http.get(f"/files/{file_id}/report"), 409)
    assert "still to be checked" in error["message"]
    check(deployment, file_id, Ending(RunOutcome.SUCCEEDED, report=GOOD))
    file = ok(admin.http.get(f"/files/{file_id}"))
    assert (file["status"], file["format"], file["num_rows"]) == ("processed", "text", 2)
    assert ok(admin.http.get(f"/files/{file_id}/report"))["num_errors"] == 0


@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows.json", "rows"])
def test_json_lines_are_checked_at_once_under_any_name(name: str, admin: Client) -> None:
    file = admin.upload(ROWS, name=name)
    assert (file["status"], file["container"], file["num_rows"]) == ("processed", "jsonl", 3)


def test_other_purposes_have_no_container(admin: Client) -> None:
    file = admin.upload(b"a,b\n", name="rows.csv", purpose="user_data")
    assert (file["status"], file["container"]) == ("processed", None)


def test_the_purpose_may_come_last(deployment: Deployment, admin: Client) -> None:
    parts = [("file", ("a.csv", b"text\none\n")), ("purpose", (None, b"fine-tune"))]
    file = ok(admin.http.post("/files", files=parts))
    assert (file["status"], file["container"]) == ("uploaded", "csv")
    check(deployment, file["id"], Ending(RunOutcome.SUCCEEDED, report=GOOD))


def test_a_zip_is_refused_under_the_name_of_json_lines_only(
    deployment: Deployment, admin: Client
) -> None:
    """The worker looks at the others, and says the same."""
    content = {"file": ("rows.jsonl", b"PK\x03\x04" + bytes(100))}
    assert refused(admin.http.post("/files", files=content, data={"purpose": "fine-tune"}), 400)
    file = admin.upload(b"PK\x03\x04" + bytes(100), name="rows.csv")
    assert file["status"] == "uploaded"
    check(deployment, file["id"], Ending(RunOutcome.SUCCEEDED, report=BAD))


def test_bad_rows_are_told(deployment: Deployment, admin: Client, waiting: str) -> None:
    check(deployment, waiting, Ending(RunOutcome.SUCCEEDED, report=BAD))
    file = ok(admin.http.get(f"/files/{waiting}"))
    assert (file["status"], file["status_details"]) == ("error", "row 1: a reason")
    report = ok(admin.http.get(f"/files/{waiting}/report"))
    assert (report["container"], report["remarks"]) == ("parquet", {})
    assert report["errors"] == [{"line": 1, "column": None, "reason": "a reason", "accepted": "b."}]
    error = refused(admin.http.post("/fine_tuning/jobs", json=_body(waiting)), 400)
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")


def test_one_that_cannot_be_read_says_why(
    deployment: Deployment, admin: Client, waiting: str
) -> None:
    check(deployment, waiting, Ending(RunOutcome.FAILED, LARGE))
    assert ok(admin.http.get(f"/files/{waiting}"))["status_details"] == "it is large"
    error = refused(admin.http.get(f"/files/{waiting}/report"), 409)
    assert "could not be checked: it is large" in error["message"]


def test_the_client_waits_for_its_file(
    deployment: Deployment, sdk: OpenAI, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def sleep(_seconds: float) -> None:
        looks.append(sdk.files.retrieve(waiting).status)
        check(deployment, waiting, Ending(RunOutcome.SUCCEEDED, report=GOOD))

    monkeypatch.setattr("time.sleep", sleep)
    assert sdk.files.wait_for_processing(waiting, poll_interval=0.01).status == "processed"
    assert looks == ["uploaded"]


def test_a_job_made_at_once_validates_its_file(
    deployment: Deployment, admin: Client, sdk: OpenAI, waiting: str
) -> None:
    job = sdk.fine_tuning.jobs.create(
        model="tiny", training_file=waiting, extra_body={"resources": {"pool": admin.pool}}
    )
    assert job.status == "validating_files"
    assert job.hyperparameters.n_epochs == "auto"
    assert ok(admin.http.get(f"/fine_tuning/jobs/{job.id}"))["queue"] is None
    check(deployment, waiting, Ending(RunOutcome.SUCCEEDED, report=GOOD))
    job = sdk.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.hyperparameters.n_epochs) == ("queued", 25)
    assert deployment.begin(admin).job_id == job.id


def test_a_job_fails_with_its_file(deployment: Deployment, sdk: OpenAI, waiting: str) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=waiting)
    check(deployment, waiting, Ending(RunOutcome.SUCCEEDED, report=BAD))
    job = sdk.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")


def _body(file_id: str) -> dict[str, str]:
    return {"model": "tiny", "training_file": file_id}
