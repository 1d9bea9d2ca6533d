"""Several documents in one block, kept apart by attention, and the proof that they are.

A model of transformers keeps documents apart by itself when their positions restart at 0, but
only if it is given no attention mask and uses no cache. `check_isolation` asks the loaded model.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.encoding import Document
from training.failures import invalid_spec

Block = list[Document]

_FLOAT32_TOLERANCE = 1e-3
_LOW_PRECISION_TOLERANCE = 0.1
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

    Two made-up documents are read together and alone; their logits have to agree.

    Raises:
        RunError: They do not.
    """
    generator = torch.Generator().manual_seed(0)
    ids_2T = torch.randint(0, vocab_size, (2, _PROBE_TOKENS), generator=generator)
    positions_2T = torch.arange(_PROBE_TOKENS).repeat(2, 1)
    together_BTV = _logits(model, ids_2T.view(1, -1), positions_2T.view(1, -1))
    apart_BTV = torch.cat(
        [_logits(model, ids[None], at[None]) for ids, at in zip(ids_2T, positions_2T, strict=True)],
        dim=1,
    )
    difference = (together_BTV - apart_BTV).abs().mean() / apart_BTV.abs().mean()
    exact = next(model.parameters()).dtype == torch.float32
    if not difference <= (_FLOAT32_TOLERANCE if exact else _LOW_PRECISION_TOLERANCE):
        raise invalid_spec(
            "This model cannot keep packed documents apart: logits of a document differ by "
            f"{difference:.1%} when another one stands before it.",
            param="training.data.packing",
            remedy="Set training.data.packing to false.",
        )


@torch.no_grad()
def _logits(model: nn.Module, input_ids_BT: Tensor, position_ids_BT: Tensor) -> Tensor:
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    output = model(
        input_ids=input_ids_BT.to(device),
        position_ids=position_ids_BT.to(device),
        use_cache=False,
    )
    model.train(was_training)
    logits_BTV: Tensor = output.logits
    return logits_BTV.float()
