"""The proof that a model keeps packed documents apart, asked of the loaded model itself.

Shapes: T tokens of a document, V vocabulary.
"""

import logging
import math

import numpy as np
import torch
from torch import Tensor, nn

from training.collation import Collator, on_device
from training.documents import Document
from training.evaluating import evaluating
from training.failures import invalid_spec
from training.loss import model_inputs

log = logging.getLogger(__name__)

_NOTHING = 1e-6
_ROUNDING = 1e-3
_COARSE_ROUNDING = 0.1
_PROBE_TOKENS = 4


def made_up_documents(vocab_size: int, number: int) -> list[Document]:
    """Short documents of random tokens, always the same ones; their second halves take loss."""
    ids = np.random.default_rng(0).integers(0, vocab_size, (number, _PROBE_TOKENS), dtype=np.int32)
    is_target = np.arange(_PROBE_TOKENS) >= _PROBE_TOKENS // 2
    return [Document(ids_T, is_target) for ids_T in ids]


def require_isolation(model: nn.Module, vocab_size: int, collate: Collator) -> None:
    """Refuse packing for a model in which one document of a block sees another.

    Raises:
        RunError: It does.
    """
    if leak := find_leak(model, vocab_size, collate):
        raise invalid_spec(
            f"This model cannot keep packed documents apart: {leak}.",
            param="training.data.packing",
            remedy="Set training.data.packing to false.",
        )


def find_leak(model: nn.Module, vocab_size: int, collate: Collator) -> str | None:
    """What is wrong when documents share a row: None for nothing but rounding.

    A made-up document is read before and behind another one, and before and behind yet another
    one. What else stands in the row must change nothing at all, in any precision; standing in
    another place, only by rounding.

    Args:
        model: As it will be trained.
        vocab_size: Of its token ids.
        collate: Makes a batch of blocks, as in training.
    """
    document, *others = made_up_documents(vocab_size, 3)
    try:
        one_2TV, other_2TV = (
            _logits_around(model, document, between, collate) for between in others
        )
    # A model that was not made for such rows fails in whatever way it likes.
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        log.debug("packed documents do not fit the model", exc_info=True)
        return f"it fails on a row of several ({type(error).__name__})"
    dtypes = {next(model.parameters()).dtype, one_2TV.dtype}
    by_place = _difference(one_2TV[1], one_2TV[0])
    by_content = max(_difference(one_2TV[at], other_2TV[at]) for at in (0, 1))
    # 8-bit kernels choose their outliers over a whole block.
    is_coarse = bool(getattr(model, "is_loaded_in_8bit", False))
    is_exact = dtypes == {torch.float32} and not is_coarse
    rounding = _ROUNDING if is_exact else _COARSE_ROUNDING
    if by_place <= rounding and by_content <= (_COARSE_ROUNDING if is_coarse else _NOTHING):
        return None
    share = max(by_place, by_content)
    return f"its logits for a document differ by {share:.2%} when another one stands beside it"


def _difference(one_TV: Tensor, other_TV: Tensor) -> float:
    """Mean difference of logits, as a share of their mean size; infinite if it is no number."""
    one_TV, other_TV = one_TV.float(), other_TV.float()
    share = float((one_TV - other_TV).abs().mean() / other_TV.abs().mean())
    return share if math.isfinite(share) else math.inf


@torch.no_grad()
def _logits_around(
    model: nn.Module, document: Document, between: Document, collate: Collator
) -> Tensor:
    """Logits [2, T, V] of a document at both ends of a block that holds another one between.

    There are two such blocks: some attentions keep the documents of a single row apart only.
    """
    block = [document, between, document]
    batch = on_device(collate([block, block]), next(model.parameters()).device)
    with evaluating(model):
        logits_BTV: Tensor = model(**model_inputs(batch)).logits
    ends = logits_BTV[0, : len(document)], logits_BTV[0, -len(document) :]
    return torch.stack(ends)
