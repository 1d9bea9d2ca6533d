"""Loss and accuracy, exact per token; a head is computed only where a token is predicted.

There are three ways to the same sums, in the table `HEADS`, the leanest first; the last is the
model as it is.

Shapes: B rows, T tokens, H hidden size, N tokens that take loss, C of them at a time, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.collation import Batch

_CHUNK_BYTES = {True: 32 * 2**20, False: 512 * 2**20}
"""Of float32 logits at a time, on a CPU and elsewhere: small for a cache, large for a GPU."""
_BALANCE_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")
"""What architectures call the weight of a balance of experts."""


@dataclass(frozen=True)
class TokenTotals:
    """Sums over the tokens of a batch that take loss; on the model's device, so that none waits.

    Attributes:
        loss_sum: [] nats, part of the graph; 0 (still part of it) for a batch without a target.
        num_correct: [] tokens that no other one is likelier than.
        balance: [] how unevenly the experts were used, where the model's own settings ask for it
            (`output_router_logits`), times the weight they give it; part of the graph.
    """

    loss_sum: Tensor
    num_correct: Tensor
    balance: Tensor | None = None


Head = Callable[[nn.Module, Batch], TokenTotals]


def streamed_totals(model: nn.Module, batch: Batch) -> TokenTotals:
    """Through the model's output layer, a few tokens at a time; never all logits at once.

    Raises:
        UnusualHeadError: The model has no output layer, or does not call it.
    """
    head = cast("Any", causal_model(model)).get_output_embeddings()
    if head is None:
        raise UnusualHeadError
    with _hidden_states(head, batch["places"]) as caught:
        outputs = model(**model_inputs(batch))
    if len(caught) != 1:
        raise UnusualHeadError
    return _totals(model, outputs, caught[0], batch["targets"], head)


def selected_totals(model: nn.Module, batch: Batch) -> TokenTotals:
    """Through the model's own head, with all that it does to logits, on the targets only."""
    kept_BT = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    kept_BT.view(-1)[batch["places"]] = True
    outputs = model(**model_inputs(batch), logits_to_keep=kept_BT)
    return _totals(model, outputs, outputs.logits, batch["targets"])


def whole_totals(model: nn.Module, batch: Batch) -> TokenTotals:
    """Through the model's own head on every token."""
    outputs = model(**model_inputs(batch))
    logits_NV = outputs.logits.flatten(0, 1).index_select(0, batch["places"])
    return _totals(model, outputs, logits_NV, batch["targets"])


HEADS: Mapping[str, Head] = MappingProxyType(
    {"streamed": streamed_totals, "selected": selected_totals, "whole": whole_totals}
)


class UnusualHeadError(Exception):
    """The model makes its logits in a way of its own."""


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The language model inside whatever adapts, wraps or shares it."""
    return next(part for part in model.modules() if isinstance(part, PreTrainedModel))


def model_inputs(batch: Batch) -> dict[str, Any]:
    return {name: batch[name] for name in _MODEL_INPUTS if name in batch} | {"use_cache": False}


_MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "decoder_input_ids",
    "position_ids",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
)


@contextmanager
def _hidden_states(head: nn.Module, places_N: Tensor) -> Iterator[list[Tensor]]:
    """Catches the hidden states [N, H] that `head` is called with, and leaves it nothing to do."""
    caught = []

    def catch(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_BTH, *others = inputs
        caught.append(hidden_BTH.flatten(0, 1).index_select(0, places_N))
        return hidden_BTH[:, :0], *others

    hook = head.register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()


def _totals(
    model: nn.Module,
    outputs: Any,  # noqa: ANN401 - of a class of each architecture's own
    rows_N: Tensor,
    targets_N: Tensor,
    head: nn.Module | None = None,
) -> TokenTotals:
    """Sums of the cross-entropy of `head(rows)`; without a head, the rows are logits."""
    trained = [part for part in head.parameters() if part.requires_grad] if head else []
    loss_sum, num_correct = cast("Any", _StreamedLoss).apply(rows_N, targets_N, head, *trained)
    return TokenTotals(loss_sum, num_correct, _balance(model, outputs))


def _balance(model: nn.Module, outputs: Any) -> Tensor | None:  # noqa: ANN401
    """The auxiliary loss of Switch Transformers (arXiv:2101.03961), which models make of it."""
    found: Tensor | None = getattr(outputs, "aux_loss", None)
    settings = causal_model(model).config.get_text_config()
    weights = (getattr(settings, name, None) for name in _BALANCE_WEIGHTS)
    weight = next((each for each in weights if each is not None), None)
    return None if found is None or weight is None else weight * found


class _StreamedLoss(torch.autograd.Function):
    """Cross-entropy with its gradient made at once, so that logits live for one chunk only."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types it without what it has
        rows_N: Tensor,
        targets_N: Tensor,
        head: nn.Module | None,
        *trained: Tensor,
    ) -> tuple[Tensor, Tensor]:
        needs_rows, needs_trained = ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:])
        rows_slope_N = torch.empty_like(rows_N) if needs_rows else None
        slopes = [torch.zeros_like(parameter) for parameter in trained] if needs_trained else []
        loss_sum = rows_N.new_zeros((), dtype=torch.float32)
        num_correct = targets_N.new_zeros(())
        for chunk in _chunks(rows_N, head):
            rows_C = rows_N[chunk].detach().requires_grad_(needs_rows)
            with torch.set_grad_enabled(needs_rows or needs_trained):
                logits_CV = rows_C.clone() if head is None else head(rows_C)
            loss, correct, slope_CV = _cross_entropy(logits_CV.detach(), targets_N[chunk])
            loss_sum += loss
            num_correct += correct
            if not logits_CV.requires_grad:
                continue
            wanted = [*([rows_C] if needs_rows else []), *(trained if needs_trained else [])]
            found = list(torch.autograd.grad(logits_CV, wanted, slope_CV))
            if rows_slope_N is not None:
                rows_slope_N[chunk] = found.pop(0)
            for total, part in zip(slopes, found, strict=True):
                total += part
        ctx.save_for_backward(rows_slope_N, *slopes)
        ctx.mark_non_differentiable(num_correct)
        return loss_sum, num_correct

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        loss_slope: Tensor,
        _correct: Tensor,
    ) -> tuple[Tensor | None, ...]:
        rows_slope_N, *slopes = ctx.saved_tensors
        rows = None if rows_slope_N is None else rows_slope_N * loss_slope
        return rows, None, None, *(part * loss_slope for part in slopes)


def _chunks(rows_N: Tensor, head: nn.Module | None) -> Iterator[slice]:
    width = rows_N.shape[-1] if head is None else int(getattr(head, "out_features", 2**17))
    size = max(1, _CHUNK_BYTES[rows_N.device.type == "cpu"] // (4 * width))
    return (slice(start, start + size) for start in range(0, len(rows_N), size))


def _cross_entropy(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss, number of hits, and the loss's gradient; the logits are used up."""
    dtype = logits_CV.dtype
    scores_CV = logits_CV.float()
    scores_CV -= scores_CV.amax(dim=1, keepdim=True)
    target_C1 = targets_C[:, None]
    score_C1 = scores_CV.gather(1, target_C1)
    num_correct = (score_C1 == 0).sum()
    scores_CV.exp_()
    total_C1 = scores_CV.sum(dim=1, keepdim=True)
    loss = (total_C1.log() - score_C1).sum()
    scores_CV /= total_C1
    scores_CV.scatter_add_(1, target_C1, torch.full_like(score_C1, -1))
    return loss, num_correct, scores_CV.to(dtype)
