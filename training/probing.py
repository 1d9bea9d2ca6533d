"""Two forms of a model asked the same: whether what was written says what was trained.

Whatever precision the weights are kept in, the answers are computed in float32: the noise of
computing in bfloat16 is as large as what a short training changes.

Shapes: T tokens of the probe, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import jinja2
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from training.adapters import Trainable
from training.failures import RunError

_QUESTION = (
    "On 3 May 2021 a ferry left Oslo with 118 cars; \u00fcber 40 of them were blue. "
    'How many were not? Answer in one word, e.g. "none".'
)
_MAX_TOKENS = 96
_LAST_TOKENS = 8
"""Of the vocabulary: tokens that were added have the highest numbers."""


def probe_of(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """[1, T] a question as it is asked at inference, and the newest tokens of the vocabulary."""
    text = _QUESTION
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": _QUESTION}]
        try:
            text = str(
                tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            )
        except jinja2.TemplateError:
            text = _QUESTION
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][-_MAX_TOKENS:]
    size = len(tokenizer)
    return torch.tensor([[*ids, *range(max(0, size - _LAST_TOKENS), size)]])


def logits_of(model: Trainable, probe: Tensor) -> Tensor:
    """[T, V] in float32, each position's mean taken off: what no probability depends on."""
    model.eval()
    # A decoder of its own is made to say what the encoder reads.
    sides = ("input_ids", "decoder_input_ids")[: 1 + bool(model.config.is_encoder_decoder)]
    inputs = dict.fromkeys(sides, probe)
    try:
        with torch.no_grad(), _widened_in_turn(model):
            logits_TV: Tensor = model(**inputs, use_cache=False).logits[0].float()
    except RuntimeError:  # a layer reads the weights of another one
        with torch.no_grad(), _widened(model):
            logits_TV = model(**inputs, use_cache=False).logits[0].float()
    return logits_TV - logits_TV.mean(dim=-1, keepdim=True)


def distance(found_TV: Tensor, expected_TV: Tensor) -> float:
    """How far two sets of logits lie apart, as a share of the length of what was expected."""
    return float((found_TV - expected_TV).norm() / expected_TV.norm())


def rounding_noise(model: Trainable, probe: Tensor) -> float:
    """How far its answers move when every weight moves within a unit of its last place.

    A strong adapter makes much of small differences. The weights stay moved.
    """
    before_TV = logits_of(model, probe)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        unit = torch.finfo(parameter.dtype).eps
        share = torch.rand(parameter.shape, generator=generator) * 2 - 1
        parameter.data.copy_(parameter.data.float() * (1 + unit * share))
    return distance(logits_of(model, probe), before_TV)


def require_same_answers(
    found_TV: Tensor,
    expected_TV: Tensor,
    *,
    tolerance: float,
    what: str,
    noise: Callable[[], float] = lambda: 0.0,
) -> float:
    """The distance, if it is within the tolerance, or else within the noise, asked for only then.

    Raises:
        RunError: `what` answers otherwise than it should, or not in numbers.
    """
    apart = float("nan")
    if found_TV.shape == expected_TV.shape:
        apart = distance(found_TV, expected_TV)
    if apart > tolerance:
        tolerance = max(tolerance, noise())
    if not apart <= tolerance:
        raise RunError(
            "broken_result",
            f"{what} does not answer as the trained model does: its logits are {apart:.3g} away "
            f"where {tolerance:.3g} is expected of rounding.",
            fault="infrastructure",
            remedy="Try again in float32; if that fails as well, please report it.",
        )
    return apart


@contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """Widen all weights at once."""
    kept = {each: each.data for each in chain(model.parameters(), model.buffers())}
    for each, data in kept.items():
        each.data = data.float() if data.is_floating_point() else data
    try:
        yield
    finally:
        for each, data in kept.items():
            each.data = data


@contextmanager
def _widened_in_turn(model: nn.Module) -> Iterator[None]:
    """Widen the weights of each layer while it computes: the memory of one layer is enough."""
    kept: dict[nn.Module, list[Tensor]] = {}

    def widen(module: nn.Module, _inputs: object) -> None:
        parameters = list(module.parameters(recurse=False))
        kept[module] = [parameter.data for parameter in parameters]
        for parameter in parameters:
            parameter.data = parameter.data.float()

    def restore(module: nn.Module, _inputs: object, _outputs: object) -> None:
        for parameter, data in zip(module.parameters(recurse=False), kept.pop(module), strict=True):
            parameter.data = data

    narrow = [
        module
        for module in model.modules()
        if any(p.dtype.itemsize < torch.float32.itemsize for p in module.parameters(recurse=False))
    ]
    hooks = [module.register_forward_pre_hook(widen) for module in narrow]
    hooks += [module.register_forward_hook(restore, always_call=True) for module in narrow]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
