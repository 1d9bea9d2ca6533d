"""What a configuration asks of held-out rows where there are none. Light."""

from collections.abc import Iterator

from training.config import TrainingConfig
from training.misfit import Misfit


def held_out_misfits(config: TrainingConfig, *, has_rows: bool) -> Iterator[Misfit]:
    """Every key that would quietly do nothing, because nothing is ever evaluated."""
    if has_rows:
        return
    asked = {
        "checkpoints.load_best_model_at_end": config.checkpoints.load_best_model_at_end,
        "data.max_eval_rows": config.data.max_eval_rows is not None,
        "evaluation.early_stopping_patience": config.evaluation.early_stopping_patience is not None,
        "evaluation.eval_on_start": config.evaluation.eval_on_start,
        "evaluation.sample_prompts": bool(config.evaluation.sample_prompts),
    }
    for key, is_asked in asked.items():
        if is_asked:
            yield Misfit(
                param=f"training.{key}",
                message=f"{key} needs held-out rows",
                remedy="give a validation_file, or set training.data.eval_split",
            )
