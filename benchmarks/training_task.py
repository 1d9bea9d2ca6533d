"""What every engine of `benchmarks.bench_training` is given, and how its time is taken.

Nothing of Tunesmith is imported: TRL may live in an environment of its own.
"""

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    TrainerCallback,
)

NUM_COMPARED = 16
"""Documents whose loss is computed before training."""

Row = dict[str, list[int]]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a model is held and trained.

    Attributes:
        r: Of the adapter, on every linear layer.
        block: Tokens of a block, at most.
        bits: 4: the base is quantised to nf4, twice.
    """

    learning_rate: float
    r: int = 8
    block: int = 512
    dtype: str = "float32"
    bits: int | None = None
    checkpointing: bool = False


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        model: The folder of the base model.
        documents: The file that they lie in.
        folder: Of this training alone.
        batch_size: Rows, or blocks when packed.
    """

    model: str
    documents: str
    folder: str
    packing: bool
    batch_size: int
    seed: int
    recipe: Recipe

    @classmethod
    def read(cls, path: Path) -> "Task":
        values = json.loads(path.read_text())
        return cls(**values | {"recipe": Recipe(**values["recipe"])})

    @property
    def adapter(self) -> str:
        return str(Path(self.folder) / "adapter")

    def rows(self) -> list[Row]:
        """Documents as `input_ids` and `completion_mask`, TRL's words."""
        with np.load(self.documents) as arrays:
            tokens, masks, ends = (arrays[name] for name in ("tokens", "masks", "ends"))
        return [
            {"input_ids": tokens[a:b].tolist(), "completion_mask": masks[a:b].tolist()}
            for a, b in pairwise([0, *ends.tolist()])
        ]

    def base(self) -> PreTrainedModel:
        options: dict[str, Any] = {"dtype": getattr(torch, self.recipe.dtype)}
        if torch.cuda.is_available():
            options["device_map"] = {"": 0}
            if importlib.util.find_spec("flash_attn") and self.recipe.dtype == "bfloat16":
                options["attn_implementation"] = "flash_attention_2"
        if self.recipe.bits is not None:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=options["dtype"],
            )
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.model, **options)
        model.config.use_cache = False
        return model

    def lora(self) -> LoraConfig:
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.recipe.r,
            lora_alpha=2 * self.recipe.r,
            lora_dropout=0.0,
            target_modules="all-linear",
        )

    def adapted(self) -> PeftModel:
        torch.manual_seed(self.seed)
        return get_peft_model(self.base(), self.lora())

    def arguments(self) -> dict[str, Any]:
        """HF's `TrainingArguments`; Tunesmith is told the same in its own words."""
        return {
            "output_dir": str(Path(self.folder) / "trainer"),
            "num_train_epochs": 1,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.recipe.learning_rate,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": self.recipe.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "bf16": self.recipe.dtype == "bfloat16",
            "seed": self.seed,
            "logging_steps": 10,
            "use_cpu": not torch.cuda.is_available(),
            "report_to": "none",
            "disable_tqdm": True,
        }


def _now() -> float:
    """CPU seconds; where a GPU does the work, seconds of the clock once it has done it."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Clock(TrainerCallback):
    """The time before the call that trains and at the end of every step."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_train_begin(self, *_args: object, **_kwargs: object) -> None:
        # Once: a run comes back to training from whatever it does between steps.
        self._times = self._times or [_now()]

    def on_step_end(self, *_args: object, **_kwargs: object) -> None:
        self._times.append(_now())

    def figures(self) -> Figures:
        """Seconds of the whole training, and of every step but the first; the peak of memory."""
        began, first, *_, last = self._times
        return {
            "seconds": last - began,
            "later_seconds": last - first,
            "peak_bytes": _peak_bytes(),
        }


def run_engine(engine: Callable[[Task], Figures]) -> None:
    """The main function of an engine's process: a task's file goes in, one line comes out."""
    print("RESULT", json.dumps(engine(Task.read(Path(sys.argv[1])))))
