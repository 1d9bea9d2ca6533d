"""Loss and accuracy, exact per token; logits are made only where a token is predicted.

Shapes: B rows, T tokens, K kept positions, N tokens that take loss, V vocabulary.
"""

import inspect
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from training.collation import IGNORED, Batch


@dataclass(frozen=True)
class TokenTotals:
    """Sums over the tokens of a batch that take loss.

    Attributes:
        loss_sum: [] nats, part of the graph; 0 (still part of it) for a batch without a target.
        num_correct: Tokens that the model holds for the likeliest.
        num_targets: Tokens that take loss.
    """

    loss_sum: Tensor
    num_correct: int
    num_targets: int


def count_targets(batch: Batch) -> int:
    """Tokens of a batch that are predicted; the first of a row has nothing before it."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def token_totals(model: nn.Module, batch: Batch) -> TokenTotals:
    """Run `model` on a batch of `training.collation`, without any cache."""
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    labels_BT = batch["labels"][:, 1:]
    kept_K = (labels_BT != IGNORED).any(dim=0).nonzero().squeeze(1)
    if not len(kept_K):
        kept_K = torch.zeros(1, dtype=torch.long, device=labels_BT.device)
    if _keeps_logits(model):
        logits_BKV = model(**inputs, use_cache=False, logits_to_keep=kept_K).logits
    else:
        logits_BKV = model(**inputs, use_cache=False).logits[:, kept_K]
    labels_BK = labels_BT[:, kept_K]
    is_target_BK = labels_BK != IGNORED
    logits_NV = logits_BKV[is_target_BK].float()
    labels_N = labels_BK[is_target_BK]
    return TokenTotals(
        loss_sum=nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum"),
        num_correct=int((logits_NV.detach().argmax(dim=1) == labels_N).sum()),
        num_targets=len(labels_N),
    )


_INPUTS = ("input_ids", "attention_mask", "position_ids")


def _keeps_logits(model: nn.Module) -> bool:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
