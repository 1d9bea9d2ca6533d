"""Attention of each document by itself, instead of one square over all that lie in a row.

transformers keeps the documents of a packed row apart by a mask, as large as the square of the row,
and computes every masked score too. Here the row is cut where the mask is: each document attends
causally to itself, which costs the sum of the documents' squares, and no mask. It is sdpa all the
same, and gives way to transformers' own wherever a row is no chain of documents.

Shapes: H heads, T tokens of all documents, L of one, D size of a head.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_DOCUMENT = "sdpa_by_document"
"""The name, as transformers' `attn_implementation`."""

MaskFunction = Callable[[int, int, Tensor, Tensor], Tensor]
"""Batch, head, index of the query, index of the key: whether the one sees the other."""


@dataclass(frozen=True)
class Segments:
    """What the attention gets instead of a mask.

    Attributes:
        lengths: Tokens of each document, in order.
        masks: Of each document, [1, 1, L, L], where it may not see all of its past; else None.
    """

    lengths: list[int]
    masks: list[Tensor | None]


def attend_by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Segments | None,
    **options: Any,  # noqa: ANN401 - passed on
) -> tuple[Tensor, None]:
    """Scaled dot-product attention; query, key and value are [1, H, T, D]."""
    if not isinstance(attention_mask, Segments):
        return _attend(module, query, key, value, attention_mask, **options)
    lengths, masks = attention_mask.lengths, attention_mask.masks
    parts = zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), masks, strict=True)
    outputs = [_attend(module, q, k, v, mask, **options)[0] for q, k, v, mask in parts]
    return torch.cat(outputs, dim=1), None


def mask_by_document(
    *,
    mask_function: MaskFunction,
    local_size: int | None = None,
    **options: Any,  # noqa: ANN401 - passed on
) -> Tensor | Segments | None:
    """The documents of a row of several, or the mask that transformers makes for sdpa."""
    is_packed = (
        options["batch_size"] == 1
        and options["q_length"] == options["kv_length"]
        and options.get("attention_mask") is None
        and not options.get("allow_is_causal_skip", True)
        and not options.get("use_vmap", False)
    )
    device = torch.device(options.get("device", "cpu"))
    if is_packed and _is_causal(mask_function, options["q_length"], device):
        return _documents(mask_function, options["q_length"], local_size, device)
    return sdpa_mask(mask_function=mask_function, local_size=local_size, **options)


def can_attend_by_document(model: PreTrainedModel) -> bool:
    """Whether the model calls whatever attention is registered, and uses sdpa."""
    return model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation()


def is_flash(model: PreTrainedModel) -> bool:
    return str(model.config._attn_implementation).startswith("flash_attention")


def in_16_bits(model: PreTrainedModel, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A block in which float32 weights compute in `dtype`, if their attention knows no float32."""
    if not is_flash(model) or model.dtype != torch.float32:
        return nullcontext()
    return torch.autocast(model.device.type, dtype)


def _is_causal(sees: MaskFunction, num_tokens: int, device: torch.device) -> bool:
    before_T = torch.arange(num_tokens - 1, device=device)
    return not bool(sees(0, 0, before_T, before_T + 1).any())


def _documents(
    sees: MaskFunction, num_tokens: int, local_size: int | None, device: torch.device
) -> Segments:
    """A document begins with every token that does not see the one before it."""
    after_T = torch.arange(1, num_tokens, device=device)
    starts = (~sees(0, 0, after_T, after_T - 1)).nonzero().squeeze(1) + 1
    borders = [0, *starts.tolist(), num_tokens]
    lengths, masks = [], []
    for start, end in pairwise(borders):
        lengths.append(end - start)
        place_L = torch.arange(start, end, device=device)
        sees_all = local_size is None or end - start <= local_size
        masks.append(None if sees_all else sees(0, 0, place_L[:, None], place_L)[None, None])
    return Segments(lengths, masks)


_attend: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward
AttentionInterface.register(BY_DOCUMENT, attend_by_document)
AttentionMaskInterface.register(BY_DOCUMENT, mask_by_document)
