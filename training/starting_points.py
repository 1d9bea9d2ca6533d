"""Where an adapter begins that does not begin at nothing, and how it is kept for any base model.

PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) take the weight W apart, train one part as
the adapter and leave the rest of W as the base; LoftQ (arXiv:2310.08659) begins with what the
quantised weight lacks of W. The pair (A0, B0) that an adapter begins with is remembered, because

    W - s B0 A0 + s B A  =  W + s [B, -B0] [A; A0],

so that what is saved is a LoRA of twice the rank, of the base as everybody has it. It holds A and
B unchanged, so that a run goes on from it bit for bit.

Shapes: O outputs, I inputs, R rank, K values.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight, gather_params_ctx
from torch import Tensor, nn

from training.adapter_config import AdapterConfig
from training.failures import RunError
from training.weights import StoredWeights

_ADAPTER = "default"

State = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]
"""A0 [R, I] and B0 [O, R], in float32."""

_STARTS: WeakKeyDictionary[PeftModel, State] = WeakKeyDictionary()
"""What each such adapter began with, named and signed as in its files, on the CPU."""


def begin(model: PeftModel, config: AdapterConfig, base_folder: Path) -> None:
    """Give every adapter of `model` the start that `config` asks for, and the base the rest.

    `base_folder` holds the weights of the base as they were before quantisation.
    """
    method = str(config.init_lora_weights)
    originals = StoredWeights(base_folder) if method == "loftq" else None
    start: State = {}
    for layer in _layers(model):
        with layer.whole_weight():
            if originals is not None:
                pair = _lost_part(layer, originals.read(layer.base_name))
            else:
                pair = _own_part(layer, method)
                _take_out(layer, pair)
        layer.put(pair)
        start |= layer.noted(pair)
    _STARTS[model] = start


def begin_as(model: PeftModel, config: AdapterConfig, saved: Mapping[str, Tensor]) -> None:
    """Give every adapter of `model` the start that a saved one had.

    Raises:
        RunError: What is saved is no such adapter.
    """
    start: State = {}
    for layer in _layers(model):
        pair = layer.saved_start(saved)
        if pair is None:
            raise foreign_weights("What is saved")
        if config.init_lora_weights != "loftq":
            with layer.whole_weight():
                _take_out(layer, pair)
        start |= layer.noted(pair)
    _STARTS[model] = start


def foreign_weights(subject: str) -> RunError:
    """What is saved does not fit what is trained."""
    return RunError(
        "checkpoint_mismatch",
        f"{subject} holds the weights of another model or adapter.",
        fault="spec",
        remedy="Resume with the configuration the checkpoint was made with, or start anew.",
    )


def for_any_base(model: PeftModel, state: Mapping[str, Tensor]) -> State:
    """The adapter in `state` as a LoRA of the original base model."""
    start = _STARTS.get(model, {})
    return {
        name: torch.cat([tensor.cpu(), start[name]], dim=_rank_dim(name))
        if name in start
        else tensor
        for name, tensor in state.items()
    }


def of_this_base(model: PeftModel, state: Mapping[str, Tensor]) -> State:
    """The adapter of the model in memory, from a LoRA of the original base: the way back."""
    start = _STARTS.get(model, {})
    return {
        name: tensor.narrow(_rank_dim(name), 0, tensor.shape[_rank_dim(name)] // 2)
        if name in start
        else tensor
        for name, tensor in state.items()
    }


def saved_config(model: PeftModel) -> LoraConfig:
    """The configuration of what is saved: an adapter that begins at nothing, for any base."""
    config = cast("LoraConfig", copy.deepcopy(model.peft_config[_ADAPTER]))
    config.inference_mode = True
    config.init_lora_weights = True
    # A set would be written in another order by every process.
    targets = cast("set[str] | list[str] | str | None", config.target_modules)
    config.target_modules = sorted(targets) if isinstance(targets, set) else targets
    if model in _STARTS:
        _double_rank(config)
    return config


def _double_rank(config: LoraConfig) -> None:
    """Keep the scale at twice the rank."""
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    factor = math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    config.lora_alpha = cast("int", config.lora_alpha * factor)
    config.rank_pattern = {key: 2 * rank for key, rank in ranks.items()}
    config.alpha_pattern = {key: factor * alpha for key, alpha in alphas.items()}


@dataclass(frozen=True)
class _Layer:
    """A linear layer under an adapter, as PEFT has it.

    Attributes:
        is_transposed: Whether its weight is stored as (in, out).
    """

    name: str
    base: nn.Module
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    rank: int
    scale: float
    is_transposed: bool

    @property
    def weight(self) -> nn.Parameter:
        return cast("nn.Parameter", self.base.weight)

    @property
    def base_name(self) -> str:
        """The name of its weight in the base model."""
        return f"{self.name.removeprefix('base_model.model.')}.weight"

    def whole_weight(self) -> AbstractContextManager[None]:
        """Where several processes hold parts of a weight, all of it."""
        return cast("AbstractContextManager[None]", gather_params_ctx(self.weight))

    def as_linear(self, weight: Tensor) -> Tensor:
        """[O, I] from its own order, and back."""
        return weight.T if self.is_transposed else weight

    @torch.no_grad()
    def put(self, pair: Pair) -> None:
        self.lora_a.copy_(pair[0])
        self.lora_b.copy_(pair[1])

    def noted(self, pair: Pair) -> State:
        return {self._file_name("A"): pair[0].cpu(), self._file_name("B"): -pair[1].cpu()}

    def saved_start(self, saved: Mapping[str, Tensor]) -> Pair | None:
        """The second halves of what is saved; None if that does not fit."""
        both_a, both_b = saved.get(self._file_name("A")), saved.get(self._file_name("B"))
        if both_a is None or both_b is None:
            return None
        if both_a.shape[0] != 2 * self.rank or both_b.shape[1] != 2 * self.rank:
            return None
        a_RI, b_OR = both_a[self.rank :].contiguous(), -both_b[:, self.rank :].contiguous()
        if (a_RI.shape, b_OR.shape) != (self.lora_a.shape, self.lora_b.shape):
            return None
        return a_RI.to(self.lora_a), b_OR.to(self.lora_b)

    def _file_name(self, factor: str) -> str:
        return f"{self.name}.lora_{factor}.weight"


def _layers(model: PeftModel) -> Iterator[_Layer]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and _ADAPTER in module.lora_A:
            layer: Any = module
            yield _Layer(
                name=name,
                base=layer.get_base_layer(),
                lora_a=layer.lora_A[_ADAPTER].weight,
                lora_b=layer.lora_B[_ADAPTER].weight,
                rank=layer.r[_ADAPTER],
                scale=layer.scaling[_ADAPTER],
                is_transposed=layer.fan_in_fan_out,
            )


@torch.no_grad()
def _own_part(layer: _Layer, method: str) -> Pair:
    """PiSSA's or OLoRA's part of the weight itself."""
    weight_OI = layer.as_linear(layer.weight.float())
    rank = layer.rank
    if method == "olora":
        left_OK, right_KI = torch.linalg.qr(weight_OI)
        return right_KI[:rank].contiguous(), left_OK[:, :rank].contiguous()
    if method == "pissa":
        left_OK, values_K, right_KI = torch.linalg.svd(weight_OI, full_matrices=False)
    else:
        num_iterations = int(method.rpartition("_")[2])
        left_OK, values_K, right_IK = torch.svd_lowrank(weight_OI, rank, niter=num_iterations)
        right_KI = right_IK.T
    return _balanced(left_OK[:, :rank], values_K[:rank] / layer.scale, right_KI[:rank])


@torch.no_grad()
def _lost_part(layer: _Layer, original: Tensor) -> Pair:
    """LoftQ with one step: the largest part of what quantisation took from the weight."""
    quantized_OI = dequantize_module_weight(layer.base).float()
    original_OI = original.to(quantized_OI)
    if original_OI.shape != quantized_OI.shape:  # stored as (in, out)
        original_OI = original_OI.T
    left_OK, values_K, right_KI = torch.linalg.svd(original_OI - quantized_OI, full_matrices=False)
    rank = layer.rank
    return _balanced(left_OK[:, :rank], values_K[:rank] / layer.scale, right_KI[:rank])


def _balanced(left_OR: Tensor, values_R: Tensor, right_RI: Tensor) -> Pair:
    roots_R = values_R.sqrt()
    return (roots_R[:, None] * right_RI).contiguous(), (left_OR * roots_R).contiguous()


@torch.no_grad()
def _take_out(layer: _Layer, pair: Pair) -> None:
    a_RI, b_OR = pair
    rest_OI = layer.as_linear(layer.weight.float()) - layer.scale * (b_OR @ a_RI)
    layer.weight.data = layer.as_linear(rest_OI).to(layer.weight.dtype).contiguous()


def _rank_dim(name: str) -> int:
    return 0 if "lora_A" in name else 1
