"""A model as it is used, without dropout, and afterwards as it was before."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which `model` is in evaluation mode.

    Inside another such block nothing is done: going over all modules takes longer than a small
    model's answer.
    """
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
