"""What a model learns from a probe as it is: the measure of every faster way to the same."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_COMPARED = 2
_LAYER = re.compile(r"\.\d+\.")


class Reference:
    """The loss and gradients of a model on a probe, through its whole head, without dropout.

    Of parameters that every layer has, the gradients in the last two layers are looked at: to get
    from the last to the one before they pass through all that a layer does, and the way on to the
    first would take most of the time and, where all weights are trained, of the memory.

    Attributes:
        idle: Names of trained parameters that the loss does not depend on.
    """

    def __init__(self, model: nn.Module, probe: Batch) -> None:
        self._model = model
        self._probe = probe
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        with evaluating(model), _ends(model) as is_end:
            loss = whole_totals(model, probe).loss_sum
            self._ends_in_head = is_end()
        used = _used(loss)
        self.idle = tuple(name for name, each in trained.items() if each not in used)
        busy = (name for name, each in trained.items() if each in used)
        self._compared = {name: trained[name] for name in _last_of_each(busy)}
        self._plain = _with_gradients(loss, self._compared)
        weight = next(model.parameters())
        is_rounded = torch.is_autocast_enabled(weight.device.type)
        is_exact = weight.dtype == torch.float32 and not is_rounded
        self._allowed = _SAME if is_exact else _SAME_ROUNDED

    def leanest_head(self) -> str | None:
        """The first of `HEADS` with which the model, as it is now, learns the same; if any."""
        with evaluating(self._model):
            return next((name for name, head in HEADS.items() if self._agrees(head)), None)

    def is_kept(self) -> bool:
        """Whether the model, as it is now, learns the same through its whole head."""
        with evaluating(self._model):
            return self._is_same(whole_totals(self._model, self._probe).loss_sum)

    def _agrees(self, head: Head) -> bool:
        # A cap that hardly touches the logits of today would be left out for good.
        if head is streamed_totals and not self._ends_in_head:
            return False
        try:
            return self._is_same(head(self._model, self._probe).loss_sum)
        # A head that was not made for this model fails in whatever way it likes.
        except (UnusualHeadError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            log.debug("a head does not fit the model", exc_info=True)
            return False

    def _is_same(self, loss: Tensor) -> bool:
        found = _with_gradients(loss, self._compared)
        return found.keys() == self._plain.keys() and all(
            bool((found[name] - plain).norm() <= self._allowed * plain.norm())
            for name, plain in self._plain.items()
        )


def _used(loss: Tensor) -> set[Tensor]:
    """What a gradient of the loss would reach."""
    ahead: list[Any] = [loss.grad_fn]
    seen = {None, *ahead}
    while ahead:
        found = {node for node, _ in ahead.pop().next_functions if node not in seen}
        seen |= found
        ahead += found
    return {node.variable for node in seen if hasattr(node, "variable")}


def _last_of_each(names: Iterable[str]) -> list[str]:
    """Of names that differ in nothing but the number of their layer, the last ones."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        kinds[_LAYER.sub(".", name, count=1)].append(name)
    return [name for alike in kinds.values() for name in alike[-_COMPARED:]]


def _with_gradients(loss: Tensor, compared: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The loss, and the gradient of each parameter that it depends on, by its name."""
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        loss, list(compared.values()), allow_unused=True
    )
    found = {name: part for name, part in zip(compared, gradients, strict=True) if part is not None}
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
