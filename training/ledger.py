"""What a run remembers beside weights and optimiser, so that a resumed curve is the same curve.

It lies in every checkpoint as `ledger.json`.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

Numbers = dict[str, float | int | None]
LEDGER_FILE = "ledger.json"


class Ledger(BaseModel):
    """Sums since the run began and since metrics were last sent.

    Attributes:
        trained_tokens: Tokens seen that are not padding, over all epochs.
        loss_sum, num_correct, num_targets: Over the tokens that took loss since the last metrics.
        metrics: The newest value of every metric.
        best_valid_loss, num_evaluations_without_gain: For early stopping.
        evaluation_due: A stop came before the evaluation of this step.
        is_done: There is nothing left to train.
    """

    model_config = ConfigDict(extra="forbid")
    trained_tokens: int = 0
    loss_sum: float = 0.0
    num_correct: int = 0
    num_targets: int = 0
    metrics: Numbers = {}
    best_valid_loss: float | None = None
    num_evaluations_without_gain: int = 0
    evaluation_due: bool = False
    is_done: bool = False

    def add(self, *, loss_sum: float, num_correct: int, num_targets: int, num_tokens: int) -> None:
        self.loss_sum += loss_sum
        self.num_correct += num_correct
        self.num_targets += num_targets
        self.trained_tokens += num_tokens

    @property
    def train_loss(self) -> float | None:
        """Mean loss per token since the last metrics, or of those if nothing came since."""
        if self.num_targets:
            return self.loss_sum / self.num_targets
        return self.metrics.get("train_loss")

    def close_window(self) -> Numbers:
        """Loss and accuracy per trained token since the last call."""
        numbers: Numbers = {
            "train_loss": self.loss_sum / max(self.num_targets, 1),
            "train_mean_token_accuracy": self.num_correct / max(self.num_targets, 1),
        }
        self.loss_sum, self.num_correct, self.num_targets = 0.0, 0, 0
        return numbers

    def judge(self, valid_loss: float, patience: int | None) -> bool:
        """Note an evaluation; returns whether training has stopped getting better."""
        if self.best_valid_loss is None or valid_loss < self.best_valid_loss:
            self.best_valid_loss = valid_loss
            self.num_evaluations_without_gain = 0
        else:
            self.num_evaluations_without_gain += 1
        return patience is not None and self.num_evaluations_without_gain >= patience

    def write(self, folder: Path) -> None:
        (folder / LEDGER_FILE).write_text(self.model_dump_json(indent=2))


def read_ledger(folder: Path) -> Ledger:
    return Ledger.model_validate_json((folder / LEDGER_FILE).read_bytes())
