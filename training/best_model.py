"""The checkpoint of the lowest held-out loss: kept however old it becomes, if a run asks for it."""

import math

from training.adapters import Trainable
from training.checkpoint import restore_weights
from training.context import RunContext
from training.ledger import Ledger
from training.run_directory import verify

_LARGEST_EXPONENT = 700.0


def perplexity(loss: float) -> float:
    """Of an exact mean loss per token, in nats; infinite beyond what a number holds."""
    return math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf


class BestModel:
    """What a run has to do with its best model, which it may not care for."""

    def __init__(self, context: RunContext, ledger: Ledger) -> None:
        self._context = context
        self._ledger = ledger
        self._is_kept = context.config.checkpoints.load_best_model_at_end

    @property
    def step(self) -> int | None:
        """Of its checkpoint; None if none is kept."""
        return self._ledger.best_step if self._is_kept else None

    def judge(self, valid_loss: float, step: int) -> bool:
        """Note an evaluation; returns whether the model is to be saved for it."""
        return self._ledger.judge(valid_loss, step) and self._is_kept

    def look(self) -> None:
        """Whether the checkpoint is still there, after the run was elsewhere."""
        step = self.step
        if step is not None and not verify(self._context.directory.checkpoint(step)):
            self._context.reporter.warn(
                f"The best checkpoint, of step {step}, is lost: the best of what follows is kept.",
                best_step=step,
            )
            self._ledger.forget_best()

    def take(self, model: Trainable, last_step: int) -> int | None:
        """Put its weights into the model that was trained up to `last_step`.

        Returns:
            The step they are of, where it is not the last one.
        """
        step = self.step
        if step is None or step == last_step:
            return None
        restore_weights(model, self._context.directory.checkpoint(step))
        self._context.reporter.tell(
            f"The result is of step {step}, whose held-out loss was the lowest.",
            best_step=step,
            valid_loss=self._ledger.best_valid_loss,
        )
        return step
