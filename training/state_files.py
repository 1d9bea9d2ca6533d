"""What the optimiser and the schedule leave in a checkpoint, in whichever parts they are kept.

optimizer.pt                            one process, or DDP: it is the same in all
global_step<N>/…optim_states.pt         ZeRO, one for each process
optimizer_0/                            FSDP, one file for each process
scheduler.pt
"""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from training.distributed import Crew


def rest(trainer: Trainer) -> None:
    """Have every process hold its own part of the weights, and none be on its way to another.

    Both ways to split a model fetch ahead, and leave whole what an evaluation has used.
    """
    engine: Any = trainer.deepspeed
    if engine is not None:
        engine.empty_partition_cache()
    if trainer.is_fsdp_enabled:
        assert trainer.model is not None
        for module in trainer.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def save_state(trainer: Trainer, folder: Path, crew: Crew) -> None:
    """Write them; all processes that train together call this."""
    if trainer.is_fsdp_enabled:
        # transformers would add the weights once more.
        accelerator = trainer.accelerator
        plugin = accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, accelerator, trainer.optimizer, trainer.model, str(folder))
        if crew.is_first:
            assert trainer.lr_scheduler is not None
            torch.save(trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")
    else:
        trainer._save_optimizer_and_scheduler(str(folder))
        if crew.is_first:
            for program in folder.glob("zero_to_*.py"):  # DeepSpeed's, to use it without us
                program.unlink()
    trainer._save_scaler(str(folder))
    trainer._save_rng_state(str(folder))
