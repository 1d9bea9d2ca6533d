"""What a finished job leaves: its results file, and a model to go on from."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.work import run

HEADER = "step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy"


def test_the_results_file(client: Any, tmp_path: Path) -> None:
    job = run(client, steps=3)
    (file_id,) = job.result_files
    file = client.files.retrieve(file_id)
    assert file.purpose == "fine-tune-results"
    text = client.files.content(file_id).text
    assert len(text.encode()) == file.bytes
    assert text.splitlines()[0] == HEADER
    rows = list(csv.DictReader(io.StringIO(text)))
    events = client.fine_tuning.jobs.list_events(job.id)
    measured = {e.data["step"]: e.data["train_loss"] for e in events if e.type == "metrics"}
    assert {int(row["step"]): float(row["train_loss"]) for row in rows} == measured
    assert {row["valid_loss"] for row in rows} == {""}

    client.files.content(file_id).write_to_file(tmp_path / "written.csv")
    with client.files.with_streaming_response.content(file_id) as reply:
        reply.stream_to_file(tmp_path / "streamed.csv")
    assert (tmp_path / "written.csv").read_text() == (tmp_path / "streamed.csv").read_text() == text
    assert [f.id for f in client.files.list(purpose="fine-tune-results")] == [file_id]


@pytest.mark.parametrize("of", ["model", "checkpoint"])
def test_training_goes_on_from_what_was_tuned(client: Any, of: str) -> None:
    first = run(client, model="meta/tiny-v1.0", suffix="one")
    checkpoint = list(client.fine_tuning.jobs.checkpoints.list(first.id))[-1]
    name = first.fine_tuned_model if of == "model" else checkpoint.fine_tuned_model_checkpoint
    second = run(client, model=name, suffix="two")
    assert second.model == name
    assert second.fine_tuned_model.startswith("ft:meta/tiny-v1.0:")
    assert ":two:" in second.fine_tuned_model
    assert second.fine_tuned_model != first.fine_tuned_model
