"""A LoRA layer as one operation: PEFT's arithmetic with fewer passes over memory.

PEFT adds what the adapter says to what the frozen layer says in several steps, each of which keeps
its inputs for the way back, those that it widened to float32 included. Here the way back is written
out: the frozen layer's input is all that is kept, and the small products are laid out so that no
matrix library has to walk a tall one column by column.

Shapes: T tokens, I and O features in and out, R the adapter's rank.
"""

from types import MethodType
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ADAPTER = "default"


def fuse_lora(model: nn.Module) -> int:
    """Make every plain LoRA layer of a model one operation; returns how many there are.

    What is not plain stays PEFT's: DoRA and other variants, quantised layers, biases of adapters,
    weights that are trained themselves.
    """
    layers = [module for module in model.modules() if _is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def unfuse_lora(model: nn.Module) -> None:
    """Give every layer PEFT's own arithmetic back."""
    for module in model.modules():
        if type(module) is LoraLinear:
            module.__dict__.pop("forward", None)


def _is_plain(module: nn.Module) -> bool:
    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
        return False
    is_alone = list(module.lora_A) == [_ADAPTER] == list(module.active_adapters)
    return (
        is_alone
        and not module.lora_variant
        and not module.lora_bias[_ADAPTER]
        and not module.fan_in_fan_out
        and not module.base_layer.weight.requires_grad
    )


def _forward(layer: LoraLinear, inputs: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
    base = cast("nn.Linear", layer.base_layer)
    is_usual = not (args or options or layer.disable_adapters or layer.merged)
    if (
        not is_usual
        or inputs.dtype != base.weight.dtype
        or torch.is_autocast_enabled(inputs.device.type)
    ):
        return LoraLinear.forward(layer, inputs, *args, **options)
    dropped = layer.lora_dropout[_ADAPTER](inputs)
    outputs: Tensor = cast("Any", _FusedLora).apply(
        inputs,
        None if dropped is inputs else dropped,
        base.weight,
        base.bias,
        layer.lora_A[_ADAPTER].weight,
        layer.lora_B[_ADAPTER].weight,
        layer.scaling[_ADAPTER],
    )
    return outputs


class _FusedLora(torch.autograd.Function):
    """x W' + b + (dropped x) A' B' · scaling, where only x, A and B have gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types it without what it has
        inputs: Tensor,
        dropped: Tensor | None,
        *weights: Any,  # noqa: ANN401 - tensors, a bias that may be missing, a number
    ) -> Tensor:
        weight_OI, bias_O, down_RI, up_OR, scaling = weights
        seen_TI = _flat(inputs if dropped is None else dropped)
        low_TR = seen_TI.to(down_RI.dtype) @ down_RI.t()
        outputs_TO = nn.functional.linear(_flat(inputs), weight_OI, bias_O)
        wide_TO = outputs_TO.to(up_OR.dtype).addmm_(low_TR, up_OR.t(), alpha=scaling)
        ctx.save_for_backward(seen_TI, low_TR, weight_OI, down_RI, up_OR)
        ctx.scaling, ctx.is_dropped = scaling, dropped is not None
        return wide_TO.to(inputs.dtype).view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        seen_TI, low_TR, weight_OI, down_RI, up_OR = ctx.saved_tensors
        slope_TO = _flat(slope)
        wide_TO = slope_TO.to(up_OR.dtype)
        low_slope_RT = (up_OR.t() @ wide_TO.t()).mul_(ctx.scaling)
        down_slope_RI = low_slope_RT @ seen_TI.to(down_RI.dtype)
        up_slope_OR = (low_TR.t() @ wide_TO).mul_(ctx.scaling).t()
        inputs_TI = slope_TO @ weight_OI if ctx.needs_input_grad[0] else None
        dropped_TI = None
        if ctx.is_dropped and ctx.needs_input_grad[1]:
            dropped_TI = (low_slope_RT.t() @ down_RI).to(slope.dtype)
        elif inputs_TI is not None:
            inputs_TI = _added(inputs_TI, low_slope_RT.t(), down_RI)
        shape = (*slope.shape[:-1], -1)
        found = (None if part is None else part.view(shape) for part in (inputs_TI, dropped_TI))
        return *found, None, None, down_slope_RI, up_slope_OR, None


def _flat(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _added(total_TI: Tensor, low_TR: Tensor, down_RI: Tensor) -> Tensor:
    """The total and the product, in place where their precision is the same."""
    if total_TI.dtype == down_RI.dtype:
        return total_TI.addmm_(low_TR, down_RI)
    return total_TI.add_(low_TR @ down_RI)
