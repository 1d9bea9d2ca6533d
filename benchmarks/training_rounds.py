"""Rounds of trainings, each in a process of its own, for the benchmarks of training."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.training_cells import NUM_HELD_OUT, Cell, Row, documents, tokenizer_of
from benchmarks.training_task import Task
from training.documents import Document

_ROOT = Path(__file__).parents[1]
TRL_PYTHON = str(_ROOT / ".venv-trl" / "bin" / "python")
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_SEED = 7


@dataclass(frozen=True)
class Contender:
    """An engine in one setting.

    Attributes:
        batch_size: Rows, or blocks when packed.
    """

    name: str
    engine: str
    packing: bool
    batch_size: int


@dataclass
class Measured:
    """What the rounds of one contender gave.

    Attributes:
        later_seconds: Without the first step, in which everything is new.
    """

    seconds: list[float] = field(default_factory=list)
    later_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    adapter: Path | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: "Measured") -> float:
        """How much longer a step takes than one of another contender, as a share of that."""
        return statistics.median(self.later_seconds) / statistics.median(other.later_seconds) - 1


class Bench:
    """One cell, prepared in a folder of its own."""

    def __init__(
        self, cell: Cell, folder: Path, trl_python: str, environment: Mapping[str, str]
    ) -> None:
        self._cell = cell
        self._folder = folder
        self._trl_python = trl_python
        self._environment = {**os.environ, **_ENVIRONMENT, **environment}
        folder.mkdir()
        self.model = cell.model(folder / "model")
        rows, tokenizer = cell.rows(np.random.default_rng(_SEED)), tokenizer_of(self.model)
        longest = cell.recipe.block
        train, made = documents(rows, tokenizer, cell.num_tokens, longest)
        self.num_tokens = sum(map(len, made))
        self.num_documents = len(made)
        held_out = NUM_HELD_OUT * self.num_tokens // len(made)
        _, self.valid = documents(rows, tokenizer, held_out, longest)
        self._documents = _write_documents(folder / "documents.npz", made)
        self._rows = _write_rows(folder / "rows.jsonl", train)

    def run(self, contender: Contender, measured: Measured) -> None:
        """One round in a new process.

        Raises:
            RuntimeError: It failed, or trained other tokens than it was given.
        """
        folder = self._folder / f"{contender.name}-{len(measured.seconds)}"
        folder.mkdir()
        task = Task(
            model=str(self.model),
            documents=str(self._documents),
            folder=str(folder),
            packing=contender.packing,
            batch_size=contender.batch_size,
            seed=_SEED,
            recipe=self._cell.recipe,
        )
        (folder / "task.json").write_text(json.dumps(asdict(task)))
        if contender.engine == "tunesmith":
            (folder / "run.json").write_text(json.dumps(self._spec(contender)))
        result = self._result(contender, folder)
        if result.get("trained_tokens", self.num_tokens) != self.num_tokens:
            raise RuntimeError(f"{contender.name} trained {result['trained_tokens']} tokens")
        measured.seconds.append(result["seconds"])
        measured.later_seconds.append(result["later_seconds"])
        measured.losses = result.get("losses", [])
        measured.peak_bytes = max(measured.peak_bytes, result["peak_bytes"])
        own = folder / "result"
        measured.adapter = own if contender.engine == "tunesmith" else folder / "adapter"

    def _result(self, contender: Contender, folder: Path) -> dict[str, Any]:
        python = self._trl_python if contender.engine == "trl" else sys.executable
        done = subprocess.run(
            [python, "-m", f"benchmarks.engine_{contender.engine}", str(folder / "task.json")],
            env=self._environment,
            cwd=_ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            raise RuntimeError(
                f"{contender.name} failed ({done.returncode}):\n{done.stderr[-4000:]}"
            )
        result: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
        return result

    def _spec(self, contender: Contender) -> dict[str, Any]:
        recipe = self._cell.recipe
        optimization = {
            "num_train_epochs": 1,
            "per_device_train_batch_size": contender.batch_size,
            "learning_rate": recipe.learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "gradient_checkpointing": recipe.checkpointing,
        }
        model: dict[str, Any] = {"dtype": recipe.dtype}
        if recipe.bits is not None:
            model["quantization"] = {"bits": recipe.bits}
        adapter = {"r": recipe.r, "lora_alpha": 2 * recipe.r, "lora_dropout": 0.0}
        return {
            "training": {
                "data": {"packing": contender.packing, "max_length": recipe.block},
                "model": model,
                "adapter": adapter,
                "optimization": optimization,
                "reporting": {"report_to": []},
            },
            "model_path": str(self.model),
            "base_model": self._cell.name,
            "training_files": [{"path": str(self._rows), "format": "prompt_completion"}],
            "seed": _SEED,
        }


def _write_documents(path: Path, made: Sequence[Document]) -> Path:
    np.savez(
        path,
        tokens=np.concatenate([document.input_ids for document in made]),
        masks=np.concatenate([document.is_target for document in made]).astype(np.int8),
        ends=np.cumsum([len(document) for document in made]),
    )
    return path


def _write_rows(path: Path, rows: Sequence[Row]) -> Path:
    lines = ({"prompt": row.prompt, "completion": row.completion} for row in rows)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@torch.no_grad()
def held_out_loss(model: Path, adapter: Path, valid: Sequence[Document]) -> float:
    """Mean loss per token that takes loss, of one document at a time and in the plainest way."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(adapter)).eval()
    loss_sum, num_targets = 0.0, 0
    for document in valid:
        ids = torch.from_numpy(document.input_ids.astype(np.int64))
        is_target = torch.from_numpy(document.is_target)[1:]
        logits = tuned(input_ids=ids[None], use_cache=False).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        loss_sum += float(losses[is_target].sum())
        num_targets += int(is_target.sum())
    return loss_sum / num_targets


def that_can_run(contenders: Sequence[Contender], trl_python: str) -> list[Contender]:
    """All of them, or all but TRL, which is then said."""
    if Path(trl_python).is_file():
        return list(contenders)
    print(f"TRL is left out: there is no {trl_python}.")
    return [contender for contender in contenders if contender.engine != "trl"]


def measure(bench: Bench, contenders: Sequence[Contender], rounds: int) -> dict[str, Measured]:
    """All contenders, in turns."""
    results = {contender.name: Measured() for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            measured = results[contender.name]
            bench.run(contender, measured)
            print(f"{contender.name}: {measured.seconds[-1]:.2f} s", flush=True)
    return results
