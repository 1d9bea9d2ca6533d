"""Weights that lie in parts, one in each process, brought together to be read, written or saved.

ZeRO-3 leaves an empty tensor where a parameter was; FSDP makes a `DTensor` of it. Whoever asks for
the whole must ask in all processes, in the same order. Weights that are whole anyway cost nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_in_parts(model: nn.Module) -> bool:
    """Whether a process alone does not have all of the model."""
    return any(_is_zero3(each) or isinstance(each, DTensor) for each in model.parameters())


def size_of(parameter: Tensor) -> int:
    """Numbers in a parameter, wherever its parts lie."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@contextmanager
def gathered(parameters: Iterable[nn.Parameter], *, to_change: bool = False) -> Iterator[None]:
    """A block in which parameters that ZeRO-3 keeps in parts are whole.

    Args:
        parameters: Any; those that are whole anyway are left alone.
        to_change: What the first process makes of them is kept.
    """
    in_parts = [each for each in parameters if _is_zero3(each)]
    if not in_parts:
        yield
        return
    import deepspeed  # noqa: PLC0415 - an optional package

    with deepspeed.zero.GatheredParameters(in_parts, modifier_rank=0 if to_change else None):
        yield


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that FSDP keeps in parts; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.device.type == "cpu" and tensor.device_mesh.device_type != "cpu":
        tensor = tensor.to(tensor.device_mesh.device_type)  # offloaded
    return tensor.full_tensor()  # type: ignore[attr-defined,no-any-return]


def whole_state(model: nn.Module, *, keeps: bool) -> dict[str, Tensor]:
    """All parameters and saved buffers on the CPU, one after the other so that few are whole.

    Args:
        model: Tied parameters are given once.
        keeps: Whether this process is the one that wants them; the others get nothing.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        with gathered([parameter]):
            tensor = whole(parameter.detach())
            if keeps:
                state[name] = tensor.cpu().clone()
    if keeps:
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        saved: dict[str, Any] = model.state_dict()
        state |= {name: saved[name].cpu() for name in saved.keys() - parameters}
    return state


def put_back(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill parameters that lie in parts from `state`, which the first process has whole."""
    for name, parameter in model.named_parameters():
        with torch.no_grad(), gathered([parameter], to_change=True):
            if name in state:
                parameter.copy_(state[name])


def _is_zero3(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_id")
