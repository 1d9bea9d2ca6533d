"""A loop and nothing else, over the very batches and layers of Tunesmith."""

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.packed_rows import attending_by_document, blocks_of
from benchmarks.training_task import Clock, Figures, Task, run_engine
from training.collation import on_device
from training.fused_lora import fuse_lora
from training.loss import HEADS
from training.sampling import EpochShuffle


def train(task: Task) -> Figures:
    model, blocks = task.adapted(), blocks_of(task)
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    collate, head = attending_by_document(base), HEADS["streamed"]
    if task.recipe.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    fuse_lora(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, task.recipe.learning_rate, weight_decay=0.0)
    order = list(EpochShuffle(len(blocks), task.seed))
    model.train()
    clock = Clock()
    clock.on_train_begin()
    for start in range(0, len(order), task.batch_size):
        rows = [blocks[i] for i in order[start : start + task.batch_size]]
        batch = on_device(collate(rows), model.device)
        (head(model, batch).loss_sum / len(batch["targets"])).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.on_step_end()
    model.save_pretrained(task.adapter)
    return clock.figures()


if __name__ == "__main__":
    run_engine(train)
