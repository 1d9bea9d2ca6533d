"""Exports of a real training by a real worker: downloaded, opened, pushed, killed and cancelled."""

import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.models import Export
from jobs.requests import ExportRequest
from jobs.service import exports
from jobs.states import OPEN_EXPORT
from tests.worker.deployment import ROOT, Deployment
from tests.worker.hub import TOKEN, Hub, running_hub

pytestmark = pytest.mark.slow
_PATIENCE_SECONDS = 300
TRAINING = {
    "model": {"dtype": "float32"},
    "data": {"max_length": 128},
    "adapter": {"r": 4},
    "optimization": {"max_steps": 4, "learning_rate": 0.01},
    "checkpoints": {"save_steps": 2, "keep": 2},
    "reporting": {"logging_steps": 1, "report_to": []},
}
_COMPARE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, found, gguf = sys.argv[1:5]
options = {"gguf_file": gguf} if gguf else {}
model = AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32, **options).eval()
plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(adapter)
ids = tokenizer("What is 2 plus one?", return_tensors="pt")["input_ids"]
with torch.no_grad():
    bare = plain(ids).logits
    expected = PeftModel.from_pretrained(plain, adapter).eval()(ids).logits
    apart = (model(ids).logits - expected).abs().max()
assert (expected - bare).abs().max() > 1e-3, "the adapter changes nothing"
assert apart < 1e-4, apart
"""


@dataclass(frozen=True)
class Scene:
    """A worker that may push to a hub, and a job that it has trained."""

    real: Deployment
    hub: Hub
    job_id: str
    base: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("exports")
    model = folder / "model"
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        real = Deployment(folder, hub_push_token=TOKEN)
        try:
            program = [sys.executable, "tests/tiny_model.py", str(model)]
            subprocess.run(program, cwd=ROOT, check=True)
            real.start_worker("worker")
            real.add_model(model, seconds=_PATIENCE_SECONDS)
            yield Scene(real, hub, _train(real), model)
        finally:
            real.close()  # before the search: what is at work removes its folder under it
    for path in real.settings.data_dir.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def _train(real: Deployment) -> str:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus one?"},
                {"role": "assistant", "content": f"It is {n + 1}."},
            ]
        }
        for n in range(16)
    ]
    body = {"model": "tiny", "training_file": real.upload(rows), "training": TRAINING, "seed": 3}
    job_id = real.submit_body(body)
    assert real.wait_for_end(job_id, _PATIENCE_SECONDS) == "succeeded", real.job(job_id).error
    return job_id


def ask(scene: Scene, kind: str, **options: Any) -> Export:
    real = scene.real
    asked = ExportRequest.model_validate({"kind": kind, **options})
    with real.database.writing() as session:
        named = exports.request(session, real.identity, scene.job_id, asked, real.settings)
    real.bell.ring("default")
    return named.export


def now(scene: Scene, export: Export) -> Export:
    with scene.real.database.reading() as session:
        return session.get_one(Export, export.id)


def made(scene: Scene, export: Export) -> Export:
    scene.real.wait_until(lambda: now(scene, export).status not in OPEN_EXPORT, _PATIENCE_SECONDS)
    done = now(scene, export)
    assert done.status == "succeeded", done.error
    return done


def wait_for_phase(scene: Scene, export: Export) -> None:
    phases = {"loading_model", "merging"}
    scene.real.wait_until(lambda: now(scene, export).phase in phases, _PATIENCE_SECONDS)


def content(scene: Scene, export: Export) -> bytes:
    assert export.artifact_key is not None
    return scene.real.content(export.artifact_key)


def unpacked(scene: Scene, export: Export, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(content(scene, export))) as archive:
        archive.extractall(folder)
    return folder


def same_answers(base: Path, adapter: Path, found: Path, gguf: str = "") -> None:
    command = [sys.executable, "-c", _COMPARE, *map(str, (base, adapter, found)), gguf]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_merged_model_of_a_checkpoint(scene: Scene, tmp_path: Path) -> None:
    (checkpoint,) = (c for c in scene.real.checkpoints(scene.job_id) if c.step == 2)
    asked = [ask(scene, kind, checkpoint=checkpoint.id) for kind in ("adapter", "merged")]
    adapter, merged = (made(scene, export) for export in asked)
    folder = unpacked(scene, adapter, tmp_path / "adapter")
    assert "step 2 of the training" in (folder / "README.md").read_text()
    assert merged.filename is not None
    assert merged.filename.endswith("ckpt-step-2-merged.zip")
    same_answers(scene.base, folder, unpacked(scene, merged, tmp_path / "merged"))


def test_a_gguf_file_of_the_result(scene: Scene, tmp_path: Path) -> None:
    asked = [ask(scene, "adapter"), ask(scene, "gguf", outtype="f32")]
    adapter, gguf = (made(scene, export) for export in asked)
    folder = unpacked(scene, adapter, tmp_path / "adapter")
    assert "train_loss" in (folder / "README.md").read_text(), "the card of the training"
    (tmp_path / "m.gguf").write_bytes(content(scene, gguf))
    same_answers(scene.base, folder, tmp_path, "m.gguf")


def test_only_the_process_that_pushes_has_the_token(scene: Scene) -> None:
    """Watched from outside, process by process, while a merged model is made and pushed."""
    export = ask(scene, "hub", repo_id="acme/tickets", content="merged")
    seen: dict[str, bool] = {}

    def look() -> bool:
        for pid in scene.real.processes():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            assert TOKEN.encode() not in command
            if b"export" in command.split(b"\0"):
                phase = now(scene, export).phase or ""
                seen[phase] = seen.get(phase, False) or TOKEN.encode() in environment
        return now(scene, export).status not in OPEN_EXPORT

    scene.real.wait_until(look, _PATIENCE_SECONDS)
    done = now(scene, export)
    assert done.status == "succeeded", done.error
    assert done.artifact_key is None
    assert done.pushed is not None
    assert not any(seen.get(phase) for phase in ("loading_model", "merging", "saving"))
    files = scene.hub.pushed["acme/tickets"].branches["main"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files.keys()
    assert "manifest.json" not in files
    assert scene.hub.tokens == {f"Bearer {TOKEN}"}


def test_a_process_that_dies_and_an_export_that_is_cancelled(scene: Scene) -> None:
    real = scene.real
    export = ask(scene, "merged")
    wait_for_phase(scene, export)
    os.kill(real.process_named("training"), signal.SIGKILL)
    done = made(scene, export)
    assert (done.attempt, done.crashes) == (2, 1)

    cancelled = ask(scene, "merged", dtype="bfloat16")
    wait_for_phase(scene, cancelled)
    with real.database.writing() as session:
        exports.cancel(session, real.identity, scene.job_id, cancelled.id)
    real.wait_until(lambda: not real.processes(), 60)
    assert now(scene, cancelled).status == "cancelled"
    assert not list(real.store.keys(f"exports/{cancelled.id}/"))


def test_a_hub_that_refuses_and_one_that_is_away(scene: Scene) -> None:
    hub, real = scene.hub, scene.real
    hub.mood = "forbidden"
    refused = ask(scene, "hub", repo_id="acme/a")
    real.wait_until(lambda: now(scene, refused).status == "failed", _PATIENCE_SECONDS)
    ended = now(scene, refused)
    assert ended.error is not None
    assert (ended.error["code"], ended.attempt) == ("hub_refused", 1)
    hub.mood = "broken"
    away = ask(scene, "hub", repo_id="acme/b")
    real.wait_until(lambda: now(scene, away).crashes == 1, _PATIENCE_SECONDS)
    hub.mood = "open"
    assert made(scene, away).attempt >= 2
    assert "acme/b" in hub.pushed
    assert "acme/a" not in hub.pushed
    told = [event.message for event in real.events(away.id)]
    assert any(f"Pushed to {hub.url}/acme/b" in message for message in told)
    assert TOKEN not in "".join(told)
