"""What the tests give a client to do: training data, and jobs that end or wait."""

import json
import time
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 60
WAITING = {"resources": {"pool": "nobody"}}
"""For `extra_body`: a pool that no worker serves."""
ROWS = "".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"What comes after {n}?"},
                {"role": "assistant", "content": f"{n + 1}."},
            ]
        }
    )
    + "\n"
    for n in range(12)
).encode()


def upload(client: Any, content: bytes = ROWS, name: str = "rows.jsonl") -> Any:
    return client.files.create(file=(name, content), purpose="fine-tune")


def submit(client: Any, **body: Any) -> Any:
    """A new job over a new file; it waits for ever unless `extra_body` says where it runs."""
    file = body.pop("training_file", None) or upload(client).id
    return client.fine_tuning.jobs.create(
        **{"model": "tiny", "training_file": file, "extra_body": WAITING, **body}
    )


def run(client: Any, *, steps: int = 4, **body: Any) -> Any:
    """A job that was trained to its end."""
    return wait_for(client, start(client, steps=steps, **body).id, "succeeded")


def start(client: Any, *, steps: int, save_steps: int = 2, **body: Any) -> Any:
    """A job that the worker takes."""
    training = {
        "optimization": {"max_steps": steps},
        "checkpoints": {"save_steps": save_steps},
    }
    return submit(client, extra_body={"training": training}, **body)


def wait_for(client: Any, job_id: str, status: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """The job, once it has the status."""
    found: list[Any] = []

    def look() -> bool:
        job = client.fine_tuning.jobs.retrieve(job_id)
        found[:] = [job]
        assert job.status == status or job.status not in {"failed", "cancelled"}, job.error
        return bool(job.status == status)

    wait_until(look, seconds)
    return found[0]


def wait_until(holds: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
