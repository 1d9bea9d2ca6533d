"""Several documents in one block, kept apart by attention, and the proof that they are.

A model of transformers keeps documents apart by itself when their positions restart at 0, but
only if it is given no attention mask and uses no cache. `check_isolation` asks the loaded model.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.encoding import Document
from training.failures import invalid_spec

Block = list[Document]

_NOTHING = 1e-6
_ROUNDING = 1e-3
_COARSE_ROUNDING = 0.1
_PROBE_TOKENS = 12


def pack(documents: Sequence[Document], max_length: int) -> list[Block]:
    """Best-fit decreasing over the whole set: few blocks of at most `max_length` tokens.

    The longest documents come first, each into the fullest block that still holds it, so that
    the result depends on nothing but the documents and their order.
    """
    blocks: list[Block] = []
    spaces: list[tuple[int, int]] = []
    """Free tokens and number of every block that is not full, sorted."""
    for document in sorted(documents, key=len, reverse=True):
        length = len(document)
        fitting = bisect_left(spaces, (length, 0))
        if fitting < len(spaces):
            free, number = spaces.pop(fitting)
        else:
            free, number = max_length, len(blocks)
            blocks.append([])
        blocks[number].append(document)
        if free > length:
            insort(spaces, (free - length, number))
    return blocks


def check_isolation(model: nn.Module, vocab_size: int) -> None:
    """Refuse packing for a model in which one document of a block sees another.

    A made-up document is read alone, behind another one, and behind yet another one. What stands
    before it must change nothing at all, in any precision; standing elsewhere, only by rounding.

    Raises:
        RunError: It does more.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (3, _PROBE_TOKENS)
    ids_T, other_T, another_T = torch.randint(0, vocab_size, shape, generator=generator)
    alone_TV = _logits(model, [ids_T])
    behind_TV = _logits(model, [other_T, ids_T])[_PROBE_TOKENS:]
    behind_another_TV = _logits(model, [another_T, ids_T])[_PROBE_TOKENS:]
    is_exact = next(model.parameters()).dtype == torch.float32
    by_place = _difference(behind_TV, alone_TV)
    by_content = _difference(behind_TV, behind_another_TV)
    # 8-bit kernels choose their outliers over a whole block.
    is_coarse = bool(getattr(model, "is_loaded_in_8bit", False))
    if by_place <= (
        _ROUNDING if is_exact and not is_coarse else _COARSE_ROUNDING
    ) and by_content <= (_COARSE_ROUNDING if is_coarse else _NOTHING):
        return
    raise invalid_spec(
        "This model cannot keep packed documents apart: its logits for a document differ by "
        f"{max(by_place, by_content):.2%} when another one stands before it.",
        param="training.data.packing",
        remedy="Set training.data.packing to false.",
    )


def _difference(one_TV: Tensor, other_TV: Tensor) -> float:
    """Mean difference of logits, as a share of their mean size; infinite if it is no number."""
    share = float((one_TV - other_TV).abs().mean() / other_TV.abs().mean())
    return share if math.isfinite(share) else math.inf


@torch.no_grad()
def _logits(model: nn.Module, documents_T: Sequence[Tensor]) -> Tensor:
    """Logits [T, V] of one block of documents."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    output = model(
        input_ids=torch.cat(list(documents_T))[None].to(device),
        position_ids=torch.cat([torch.arange(len(ids_T)) for ids_T in documents_T])[None].to(
            device
        ),
        use_cache=False,
    )
    model.train(was_training)
    logits_BTV: Tensor = output.logits
    return logits_BTV[0].float()
