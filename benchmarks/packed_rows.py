"""Documents in the very blocks that Tunesmith makes of them, for engines to compare it with."""

import numpy as np
from transformers import PreTrainedModel

from benchmarks.training_task import Task
from training.attention import BY_DOCUMENT, is_flash
from training.collation import FlatCollator
from training.documents import Document
from training.packing import Blocks, pack


def documents_of(task: Task) -> list[Document]:
    return [
        Document(np.asarray(row["input_ids"]), np.asarray(row["completion_mask"], bool))
        for row in task.rows()
    ]


def blocks_of(task: Task) -> Blocks:
    documents = documents_of(task)
    lengths = np.asarray([len(document) for document in documents])
    return Blocks(documents, *pack(lengths, task.recipe.block, task.seed))


def attending_by_document(model: PreTrainedModel) -> FlatCollator:
    """Batches of one row, after the attention was set to take each document in it by itself."""
    if not is_flash(model):
        model.set_attn_implementation(BY_DOCUMENT)
    return FlatCollator(tells_lengths=is_flash(model))
