"""What a run remembers beside weights and optimiser, so that a resumed curve is the same curve.

It lies in every checkpoint as `ledger.json`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

from pydantic import BaseModel, ConfigDict, PrivateAttr

Numbers = dict[str, float | int | None]
LEDGER_FILE = "ledger.json"


class Ledger(BaseModel):
    """Sums since the run began and since metrics were last sent.

    Attributes:
        trained_tokens: Tokens seen that are not padding, over all epochs.
        loss_sum, num_correct, num_targets: Over the tokens that took loss since the last metrics.
        metrics: The newest value of every metric.
        best_valid_loss, num_evaluations_without_gain: For early stopping.
        best_step, best_metrics: Where that loss was measured, and the metrics there.
        evaluation_due: A stop came before the evaluation of this step.
        is_done: There is nothing left to train.
        num_processes: That train together: each has a part of the state.
    """

    model_config = ConfigDict(extra="forbid")
    trained_tokens: int = 0
    loss_sum: float = 0.0
    num_correct: int = 0
    num_targets: int = 0
    metrics: Numbers = {}
    best_valid_loss: float | None = None
    num_evaluations_without_gain: int = 0
    best_step: int | None = None
    best_metrics: Numbers = {}
    evaluation_due: bool = False
    is_done: bool = False
    num_processes: int = 1
    _on_the_way: list[Any] = PrivateAttr(default_factory=lambda: [0.0] * 4)

    def add(
        self,
        *,
        loss_sum: SupportsFloat,
        num_correct: SupportsFloat,
        num_targets: int,
        num_tokens: int,
    ) -> None:
        """Note what this process has seen in the step that is on its way.

        Numbers that still lie on a device are not asked for before the step is closed.
        """
        seen = (loss_sum, num_correct, num_targets, num_tokens)
        self._on_the_way = [one + other for one, other in zip(self._on_the_way, seen, strict=True)]

    def close_step(self, total: Callable[..., list[float]]) -> None:
        """Count what was seen in a step.

        Args:
            total: Sums each of its arguments over all processes that train together.
        """
        loss_sum, num_correct, num_targets, num_tokens = total(*map(float, self._on_the_way))
        self._on_the_way = [0.0] * 4
        self.loss_sum += loss_sum
        self.num_correct += int(num_correct)
        self.num_targets += int(num_targets)
        self.trained_tokens += int(num_tokens)

    @property
    def train_loss(self) -> float | None:
        """Mean loss per token since the last metrics, or of those if nothing came since."""
        if self.num_targets:
            return self.loss_sum / self.num_targets
        return self.metrics.get("train_loss")

    def window(self) -> Numbers:
        """Loss and accuracy per trained token since the last metrics."""
        return {
            "train_loss": self.loss_sum / max(self.num_targets, 1),
            "train_mean_token_accuracy": self.num_correct / max(self.num_targets, 1),
        }

    def close_window(self) -> Numbers:
        """As `window`, which begins anew."""
        numbers = self.window()
        self.loss_sum, self.num_correct, self.num_targets = 0.0, 0, 0
        return numbers

    def judge(self, valid_loss: float, step: int) -> bool:
        """Note an evaluation; returns whether it is the best so far."""
        if self.best_valid_loss is not None and valid_loss >= self.best_valid_loss:
            self.num_evaluations_without_gain += 1
            return False
        self.best_valid_loss, self.best_step = valid_loss, step
        self.best_metrics = dict(self.metrics)
        self.num_evaluations_without_gain = 0
        return True

    def forget_best(self) -> None:
        """What was best is not there any more."""
        self.best_valid_loss, self.best_step, self.best_metrics = None, None, {}

    def write(self, folder: Path) -> None:
        (folder / LEDGER_FILE).write_text(self.model_dump_json(indent=2))


def read_ledger(folder: Path) -> Ledger:
    return Ledger.model_validate_json((folder / LEDGER_FILE).read_bytes())


def best_step_of(folder: Path) -> int | None:
    """The step of the lowest held-out loss, as a checkpoint has noted it; None without a note."""
    try:
        return read_ledger(folder).best_step
    except FileNotFoundError:
        return None
