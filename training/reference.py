"""What a model learns from a probe as it is: the measure of every faster way to the same."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.collation import Batch
from training.evaluating import evaluating
from training.loss import HEADS, Head, UnusualHeadError, causal_model, streamed_totals, whole_totals

log = logging.getLogger(__name__)

_LOSS = ""
"""What no parameter is called."""
_SAME = 1e-3
_SAME_ROUNDED = 0.1
"""Differences of losses and gradients, as shares of them: in float32, and in 16 bits.

Float32 sums taken in another order were seen to move a deep model's gradients by 2e-4.
"""


class Reference:
    """The loss and the gradients of a model on a probe, through its whole head, without dropout.

    Attributes:
        idle: Names of trained parameters that the loss does not depend on.
    """

    def __init__(self, model: nn.Module, probe: Batch) -> None:
        self._model = model
        self._probe = probe
        with evaluating(model), _ends(model) as is_end:
            self._plain = _loss_and_gradients(whole_totals, model, probe)
            self._ends_in_head = is_end()
        self.idle = tuple(name for name in _trained(model) if name not in self._plain)
        self._allowed = _SAME if next(model.parameters()).dtype == torch.float32 else _SAME_ROUNDED

    def leanest_head(self) -> str | None:
        """The first of `HEADS` with which the model, as it is now, learns the same; if any."""
        with evaluating(self._model):
            return next((name for name, head in HEADS.items() if self._agrees(head)), None)

    def is_kept(self) -> bool:
        """Whether the model, as it is now, learns the same through its whole head."""
        with evaluating(self._model):
            return self._is_same(_loss_and_gradients(whole_totals, self._model, self._probe))

    def _agrees(self, head: Head) -> bool:
        # A cap that hardly touches the logits of today would be left out for good.
        if head is streamed_totals and not self._ends_in_head:
            return False
        try:
            found = _loss_and_gradients(head, self._model, self._probe)
        # A head that was not made for this model fails in whatever way it likes.
        except (UnusualHeadError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            log.debug("a head does not fit the model", exc_info=True)
            return False
        return self._is_same(found)

    def _is_same(self, found: Mapping[str, Tensor]) -> bool:
        return found.keys() == self._plain.keys() and all(
            bool((found[name] - plain).norm() <= self._allowed * plain.norm())
            for name, plain in self._plain.items()
        )


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def _loss_and_gradients(head: Head, model: nn.Module, probe: Batch) -> dict[str, Tensor]:
    """The loss, and the gradient of each trained parameter that it depends on, by its name."""
    loss = head(model, probe).loss_sum
    trained = _trained(model)
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        loss, list(trained.values()), allow_unused=True
    )
    found = {name: part for name, part in zip(trained, gradients, strict=True) if part is not None}
    return {_LOSS: loss.detach(), **found}


@contextmanager
def _ends(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Tells of one pass whether the logits are what the output layer made, bit by bit."""
    head = cast("Any", causal_model(model)).get_output_embeddings()
    made: list[Tensor] = []
    answered: list[Tensor] = []
    hooks = [model.register_forward_hook(lambda *seen: answered.append(seen[-1].logits.detach()))]
    if head is not None:
        # What changes it afterwards may do so in place.
        hooks.append(
            head.register_forward_hook(lambda *seen: made.append(seen[-1].detach().clone()))
        )
    try:
        yield lambda: len(made) == 1 and torch.equal(made[0].to(answered[0].dtype), answered[0])
    finally:
        for hook in hooks:
            hook.remove()
