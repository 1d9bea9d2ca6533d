"""TRL's SFTTrainer as its documentation has it: padded, or packed by best-fit decreasing."""

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from benchmarks.training_task import NUM_COMPARED, Clock, Figures, Task, run_engine


def train(task: Task) -> Figures:
    rows = task.rows()
    clock = Clock()
    arguments = SFTConfig(
        **task.arguments(),
        max_length=task.recipe.block,
        packing=task.packing,
        completion_only_loss=True,
    )
    trainer = SFTTrainer(
        model=task.base(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:NUM_COMPARED]),
        peft_config=task.lora(),
        callbacks=[clock],
    )
    losses = [] if task.packing else _losses(trainer)
    clock.on_train_begin()
    trainer.train()
    trainer.save_model(task.adapter)
    return clock.figures() | {"losses": losses}


@torch.no_grad()
def _losses(trainer: SFTTrainer) -> list[float]:
    """Of single documents, as the trainer computes them."""
    trainer.model.eval()
    batches = (trainer.data_collator([row]) for row in trainer.eval_dataset)
    inputs = map(trainer._prepare_inputs, batches)
    return [float(trainer.compute_loss(trainer.model, each)) for each in inputs]


if __name__ == "__main__":
    run_engine(train)
