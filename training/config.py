"""What a training run is told to do: frozen, checked, and free of torch.

The API, the CLI and the trainer all read these classes, so the API refuses exactly what the
trainer would refuse. Keys are spelled as in transformers' `TrainingArguments` and PEFT's
configs, so their documentation applies; older spellings are translated by `training.spellings`.
"""

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from pydantic import model_validator

from training.adapter_config import AdapterConfig
from training.combinations import conflicts, sampling_conflicts
from training.data_config import DataConfig
from training.evaluation_config import CheckpointsConfig, EvaluationConfig, ReportingConfig
from training.model_config import ModelConfig
from training.optimization_config import (
    FULL_LEARNING_RATE,
    LORA_LEARNING_RATE,
    OptimizationConfig,
)
from training.parallelism_config import ParallelismConfig
from training.section import Conflict, Section, complaint
from training.sharing_conflicts import best_conflicts, sharing_conflicts
from training.spellings import SpellingError, canonical, without_flat_nulls


class TrainingConfig(Section):
    """Everything that training itself decides; see `docs/job.md` for each key."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    parallelism: ParallelismConfig = ParallelismConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    reporting: ReportingConfig = ReportingConfig()

    @model_validator(mode="before")
    @classmethod
    def _canonical_spellings(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
        try:
            return canonical(without_flat_nulls(value)) if isinstance(value, dict) else value
        except SpellingError as error:
            raise complaint(error.kind, error.place, error.words, error.value) from None

    def _conflicts(self) -> Iterator[Conflict]:
        shared = sharing_conflicts(self.parallelism, self.model, self.optimization)
        own = conflicts(self.model, self.adapter, self.parallelism, self.optimization)
        sampling = sampling_conflicts(self.data, self.optimization)
        best = best_conflicts(self.parallelism, self.checkpoints)
        return chain(own, shared, sampling, best)

    @property
    def requires(self) -> frozenset[str]:
        """What the host of a run must offer: `cuda`, `c++` (a compiler), or a package's name."""
        optimizer, parallelism = self.optimization.optimizer, self.parallelism
        compiles = parallelism.uses_deepspeed and "optimizer" in parallelism.offloads
        needs = {
            "c++": self.optimization.torch_compile or compiles,
            "cuda": bool(self.needs_gpu),
            "deepspeed": parallelism.uses_deepspeed,
            "flash_attn": self.model.attn_implementation == "flash_attention_2",
            "liger_kernel": self.model.use_liger_kernel,
        }
        packages = {optimizer.package} if optimizer.package else set()
        return frozenset({*packages, *(name for name, is_needed in needs.items() if is_needed)})

    @property
    def needs_gpu(self) -> tuple[str, ...]:
        """What of this cannot be done without a GPU, as keys and their values."""
        asked = {
            "model.dtype float16": self.model.dtype == "float16",
            "model.attn_implementation flash_attention_2": (
                self.model.attn_implementation == "flash_attention_2"
            ),
            "model.use_liger_kernel": self.model.use_liger_kernel,
            "parallelism.strategy fsdp": self.parallelism.strategy == "fsdp",
            f"optimization.optim {self.optimization.optim}": self.optimization.optimizer.needs_cuda,
        }
        return tuple(words for words, is_asked in asked.items() if is_asked)

    @property
    def effective_batch_size(self) -> int:
        """Rows (blocks, when packed) that one optimiser step sees."""
        return (
            self.optimization.per_device_train_batch_size
            * self.optimization.gradient_accumulation_steps
            * self.parallelism.count
        )


def automatic_epochs(num_rows: int) -> int:
    """The number of epochs for a data set whose owner did not choose one.

    Three, more for less than 34 rows (so that about 100 rows are seen, 25 epochs at most), fewer
    above 8,333 rows (so that about 25,000 are seen).
    """
    if num_rows * 3 < 100:
        return max(3, min(25, math.ceil(100 / max(num_rows, 1))))
    return 3 if num_rows * 3 <= 25_000 else max(1, 25_000 // num_rows)


def resolved(config: TrainingConfig, *, num_rows: int, context_length: int) -> TrainingConfig:
    """`config` with every value that was left to us filled in.

    Args:
        config: As it was asked for.
        num_rows: Rows of the training files.
        context_length: Positions of the base model, in tokens.
    """
    optimization = config.optimization
    default_rate = LORA_LEARNING_RATE if config.adapter.type == "lora" else FULL_LEARNING_RATE
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"max_length": config.data.limit(context_length)}
            ),
            "optimization": optimization.model_copy(
                update={
                    "num_train_epochs": optimization.num_train_epochs
                    or float(automatic_epochs(num_rows)),
                    "learning_rate": optimization.learning_rate or default_rate,
                }
            ),
        }
    )
