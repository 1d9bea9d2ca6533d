"""Schemathesis asks the live server everything that its document allows, and much that it forbids.

Every check is on: replies, their headers and their bodies are as documented, what is valid is
accepted and what is not is refused, nothing fails, what is deleted is gone, all of it needs a key.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.sdk.service import Service
from tests.sdk.work import run, submit, upload

_HERE = Path(__file__).parent
_SEED = "1"
_ENDED = {"succeeded", "failed", "cancelled"}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server with a little of everything in it, in the variables of `schemathesis.toml`."""
    service = Service(tmp_path)
    try:
        service.start_worker()
        service.add_model(tmp_path / "model")
        secret = service.team().secret
        with openai.OpenAI(api_key=secret, base_url=service.url) as client:
            known = {"SERVER_URL": service.url.removesuffix("/v1"), "API_KEY": secret}
            known |= _seeded(client)
            with _ending_what_waits(client):
                yield known
    finally:
        service.close()


def _seeded(client: Any) -> dict[str, str]:
    file_id = upload(client).id
    pending = client.uploads.create(
        bytes=5, filename="rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    done = run(client, training_file=file_id)
    waiting = submit(client, training_file=file_id)
    exports = f"/fine_tuning/jobs/{done.id}/exports"
    return {
        "EXPORT_ID": client.post(exports, body={"kind": "merged"}, cast_to=dict[str, Any])["id"],
        "CHECKPOINT_ID": client.fine_tuning.jobs.checkpoints.list(done.id).data[0].id,
        "FILE_ID": file_id,
        "UPLOAD_ID": pending.id,
        "PART_ID": client.uploads.parts.create(pending.id, data=b"12345").id,
        "TUNED_MODEL": done.fine_tuned_model,
        "SUCCEEDED_JOB": done.id,
        "CANCELLED_JOB": client.fine_tuning.jobs.cancel(waiting.id).id,
    }


@contextmanager
def _ending_what_waits(client: Any) -> Iterator[None]:
    """Cancel what is not done, again and again: to follow a job that waits is to wait with it."""
    over = threading.Event()

    def cancel() -> None:
        while not over.wait(0.5):
            for job in client.fine_tuning.jobs.list(limit=100).data:
                if job.status not in _ENDED:
                    with suppress(openai.ConflictError):  # it was faster
                        client.fine_tuning.jobs.cancel(job.id)

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("num_examples", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_the_server_does_what_its_document_says(
    environment: dict[str, str], tmp_path: Path, num_examples: int
) -> None:
    program = Path(sys.executable).with_name("st")
    command = [program, "--no-color", "--config-file", _HERE / "schemathesis.toml", "run"]
    command += [f"{environment['SERVER_URL']}/openapi.json", "--seed", _SEED]
    # It filters most of what it makes up for a path of two ids, such as those that have a slash.
    command += ["--suppress-health-check", "filter_too_much"]
    done = subprocess.run(
        [*command, "--max-examples", str(num_examples)],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Stateful" in done.stdout
