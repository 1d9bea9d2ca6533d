"""Behaves as `python -m training` does towards a worker, in milliseconds and without torch.

Its losses depend on all steps before, so a curve shows whether a resume was exact.
`python fake_training.py MODE run DIR` or `… inspect FOLDER -o FILE`
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from training.events import (
    CheckpointSaved,
    EventWriter,
    Failure,
    Finished,
    Metrics,
    Progress,
    Rewound,
)
from training.facts import ModelFacts
from training.run_directory import RunDirectory, complete_folder, read_manifest

STEP_SECONDS = 0.05
SECRET = "hf_" + "a1B2" * 8
FACTS = ModelFacts(
    architecture="Fake",
    model_type="fake",
    num_parameters=1,
    context_length=64,
    vocab_size=10,
    linear_modules=("q_proj",),
    module_names=("q_proj",),
    tie_word_embeddings=False,
    has_chat_template=True,
    bytes=1,
    sha256="f" * 64,
)


def losses(num_steps: int, state: bytes = b"") -> list[float]:
    """The whole curve, as an uninterrupted run logs it."""
    found = []
    for _ in range(num_steps):
        state = hashlib.sha256(state).digest()
        found.append(int.from_bytes(state[:4]) / 2**32)
    return found


class FakeTrainer:
    def __init__(self, directory: RunDirectory, mode: str) -> None:
        self.directory = directory
        self.mode = mode
        self.spec = directory.read_spec()
        self.events = EventWriter(directory.events_file)
        self.stop = False
        self.state = b""
        self.step = 0
        if mode == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, _number: int, _frame: object) -> None:
        self.stop = True

    def run(self) -> None:
        self.events.write(Progress(phase="starting"))
        self._resume()
        if self.mode == "families":
            self._start_family()
        if self.mode == "silent":
            time.sleep(3600)
        total = self.spec.training.optimization.max_steps
        assert total is not None
        while self.step < total:
            if self.step and self.directory.is_to_keep():
                break
            self._step(total)
            if self.stop:
                self._interrupted()
                return
        self._succeed()

    def _resume(self) -> None:
        folder = self.directory.newest_valid_checkpoint()
        if folder is None:
            return
        self.state = (folder / "state.bin").read_bytes()
        self.step = int(folder.name.removeprefix("checkpoint-"))
        self.events.write(Rewound(step=self.step))

    def _step(self, total: int) -> None:
        time.sleep(STEP_SECONDS)
        self.step += 1
        self.state = hashlib.sha256(self.state).digest()
        loss = int.from_bytes(self.state[:4]) / 2**32
        self.events.write(Metrics(step=self.step, metrics={"train_loss": loss}))
        self.events.write(Progress(phase="training", step=self.step, total_steps=total))
        print(f"step {self.step} token {SECRET}", flush=True)  # noqa: T201
        if self.mode == "fail" and self.step == 3:
            failure = Failure(code="nan_loss", message="the loss is NaN", fault="spec")
            self.events.write(Finished(outcome="failed", step=3, failure=failure))
            sys.exit(1)
        if self.mode == "abort" and self.step == 3:
            os.abort()
        if self.step % self.spec.training.checkpoints.save_steps == 0:
            self._save()

    def _save(self) -> None:
        folder = self.directory.checkpoint(self.step)
        with complete_folder(folder, step=self.step, attempt=self.spec.attempt) as temporary:
            (temporary / "state.bin").write_bytes(self.state)
            (temporary / "weights.bin").write_bytes(os.urandom(200_000))
        size = read_manifest(folder).total_bytes
        self.events.write(CheckpointSaved(step=self.step, name=folder.name, bytes=size))

    def _interrupted(self) -> None:
        reason = self.directory.read_stop_reason()
        if reason != "cancel":
            self._save()
        outcome = "cancelled" if reason == "cancel" else "interrupted"
        self.events.write(Finished(outcome=outcome, step=self.step))

    def _succeed(self) -> None:
        with complete_folder(self.directory.result) as temporary:
            (temporary / "adapter_model.safetensors").write_bytes(self.state * 1000)
            (temporary / "adapter_config.json").write_text(json.dumps({"r": 8}))
        self.directory.tensorboard.mkdir()
        (self.directory.tensorboard / "events").write_text("scalars")
        self.events.write(Finished(outcome="succeeded", step=self.step, trained_tokens=1234))

    def _start_family(self) -> None:
        """Children in sessions of their own, as data loaders and launchers have."""
        for _ in range(2):
            subprocess.Popen(["sleep", "1000"], start_new_session=True)


def main() -> None:
    mode, verb, target = sys.argv[1:4]
    if verb == "inspect":
        Path(sys.argv[5]).write_text(FACTS.model_dump_json())
    else:
        FakeTrainer(RunDirectory(Path(target)), mode).run()


if __name__ == "__main__":
    main()
