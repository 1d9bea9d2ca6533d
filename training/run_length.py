"""How many steps a run has. Light."""

import math

from training.config import TrainingConfig


def total_steps(config: TrainingConfig, num_rows: int) -> int:
    """Optimiser steps of a run over `num_rows` rows (blocks, when packed) an epoch."""
    optimization = config.optimization
    if optimization.max_steps is not None:
        return optimization.max_steps
    assert optimization.num_train_epochs is not None, "the configuration is not resolved"
    together = optimization.per_device_train_batch_size * config.parallelism.count
    num_batches = math.ceil(num_rows / together)
    steps_per_epoch = math.ceil(num_batches / optimization.gradient_accumulation_steps)
    return max(1, math.ceil(optimization.num_train_epochs * steps_per_epoch))
