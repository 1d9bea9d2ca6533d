"""What is trained of a model: one function per adapter type, in the table `ADAPTERS`.

Every function takes the loaded base and returns the model to train. Seeds are set before it is
called, so that the same seed makes the same adapter in every process.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.adapter_config import AdapterConfig
from training.added_tokens import Vocabulary, make_room
from training.failures import unfit
from training.packages import left_out
from training.starting_points import begin, begin_as
from training.targets import (
    LINEAR,
    TIED_NAMES,
    Subject,
    adapted,
    adapted_experts,
    skipped_layers,
    target_misfits,
)
from training.weight_names import Weight, named
from training.weights import barred_names, is_in_parts, taken_names, weights_of
from training.whole import size_of

log = logging.getLogger(__name__)

Trainable = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class Origin:
    """What is trained, and what it goes on from.

    Attributes:
        name: The catalogue's name of the base model; never a path of this machine.
        folder: The base model's files.
        saved: The tensors of the adapter that training goes on with, if there is one.
        vocabulary: The tokens that were added for it; None: none were.
    """

    name: str
    folder: Path
    saved: Mapping[str, Tensor] | None = None
    vocabulary: Vocabulary | None = None


AddAdapter = Callable[[PreTrainedModel, AdapterConfig, Origin], Trainable]


def add_lora(model: PreTrainedModel, config: AdapterConfig, origin: Origin) -> PeftModel:
    """LoRA (arXiv:2106.09685): weights in float32 on a frozen base of any precision.

    Its weights are those of `origin.saved` only after `checkpoint.restore_weights`; here it gets
    the start that they had, which the base has to fit.

    Raises:
        RunError: The model does not have what the adapter is for, or not as it would have to be.
    """
    subject = subject_of(model)
    for misfit in target_misfits(config, subject):
        raise unfit(misfit)
    if names := skipped_layers(config, subject):
        log.warning(
            "PEFT cannot adapt these layers of a quantised model of this architecture, which are "
            "left as they are: %s",
            ", ".join(names),
        )
    lora = lora_config(config, subject)
    lora.task_type = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if origin.vocabulary is not None:
        make_room(model, origin.vocabulary)
        lora.trainable_token_indices = _rows_to_train(model, lora, origin.vocabulary.new_ids)
    with _plain_layers():
        trained = get_peft_model(model, lora)
    _train_in_float32(trained)
    # The card and the config name the model, never a path of this machine.
    trained.peft_config["default"].base_model_name_or_path = origin.name
    if config.splits_the_base:
        if origin.saved is None:
            begin(trained, config, origin.folder)
        else:
            begin_as(trained, config, origin.saved)
    return trained


@contextmanager
def _plain_layers() -> Iterator[None]:
    """PEFT imports bitsandbytes, for a second or two, also where no layer is quantised.

    Where one is, loading it has imported the package, and nothing is left out.
    """
    with left_out("bitsandbytes"):
        yield
    for remembered in (is_bnb_available, is_bnb_4bit_available):
        remembered.cache_clear()


def subject_of(model: PreTrainedModel) -> Subject:
    """What can be adapted of a loaded model."""
    weights = weights_of(model)
    return Subject(
        weights,
        tied=bool(model.config.get_text_config().tie_word_embeddings),
        quantized=getattr(model, "quantization_method", None) is not None,
        taken_names=taken_names(model.config),
        barred_names=barred_names(model.config, weights),
        in_parts=is_in_parts(model),
        has_encoder=bool(model.config.is_encoder_decoder),
    )


def lora_config(config: AdapterConfig, subject: Subject) -> LoraConfig:
    """Our configuration in PEFT's words."""
    targets = adapted(config, subject)
    experts = [weight.name for weight in adapted_experts(config, subject)]
    saved = _saved_whole(config, subject)
    return LoraConfig(
        r=config.r,
        lora_alpha=_number(config.lora_alpha),
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        # What takes the base apart is done by ourselves, in `starting_points`.
        init_lora_weights=True
        if config.splits_the_base
        else cast("bool", config.init_lora_weights),
        target_modules=_module_names(config, targets, subject),
        target_parameters=[*config.target_parameters, *experts] or None,
        layers_to_transform=config.layers_to_transform,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern={key: _number(alpha) for key, alpha in config.alpha_pattern.items()},
        fan_in_fan_out=not subject.quantized and any(w.kind == "conv1d" for w in targets),
        modules_to_save=saved or None,
        ensure_weight_tying=subject.tied and any(_leaf(name) in TIED_NAMES for name in saved),
    )


def train_every_weight(
    model: PreTrainedModel, _config: AdapterConfig, origin: Origin
) -> PreTrainedModel:
    """Full fine-tuning."""
    if origin.vocabulary is not None:
        make_room(model, origin.vocabulary)
    model.requires_grad_(True)
    return model


ADAPTERS: Mapping[str, AddAdapter] = MappingProxyType(
    {"lora": add_lora, "none": train_every_weight}
)


def trainable_parameters(model: Trainable) -> tuple[int, int]:
    """Numbers of trained parameters and of all parameters of the base."""
    if isinstance(model, PeftModel):
        trained, everything = model.get_nb_trainable_parameters()
        return trained, everything
    sizes = [(size_of(each), each.requires_grad) for each in model.parameters()]
    return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)


def _module_names(config: AdapterConfig, targets: Sequence[Weight], subject: Subject) -> list[str]:
    """What PEFT is to look for: last parts of names, where nothing else ends in them."""
    if config.target_modules != "all-linear":
        return list(config.target_modules)
    modules = {weight.module for weight in targets}
    last_parts = {_leaf(module) for module in modules}
    ambiguous = any(
        _leaf(weight.module) in last_parts
        for weight in subject.weights
        if weight.module not in modules and weight.kind not in LINEAR
    )
    return sorted(modules if ambiguous else last_parts)


def _rows_to_train(
    model: PreTrainedModel, lora: LoraConfig, new_ids: Sequence[int]
) -> dict[str, list[int]] | None:
    """The rows of new tokens, in the embedding and in a head of its own, unless saved whole."""
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    is_tied = head is not None and head.weight is embeddings.weight
    wanted = {embeddings} if head is None or is_tied else {embeddings, head}
    if lora.ensure_weight_tying:
        return None  # the weight that both share is saved whole
    names = [name for name, module in model.named_modules() if module in wanted]
    rows = {n: list(new_ids) for n in names if n not in (lora.modules_to_save or ())}
    return rows if rows and new_ids else None


def _saved_whole(config: AdapterConfig, subject: Subject) -> list[str]:
    """Whole names, because PEFT takes any end of a name for it: `norm` for `input_layernorm`."""
    return sorted(
        {
            weight.module
            for weight in subject.weights
            if any(named(weight.module, name) for name in config.modules_to_save)
        }
    )


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def _number(alpha: float) -> int:
    """PEFT takes any number; serving engines expect a whole one wherever it is one."""
    return cast("int", int(alpha) if float(alpha).is_integer() else alpha)


def _train_in_float32(model: PeftModel) -> None:
    """Keep modules that are trained whole in float32, in a base of another precision.

    Steps of ordinary size are lost when added to 16-bit weights, and float16 weights cannot be
    trained at all. To the base they compute in its precision, as before.
    """
    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            module = wrapper.modules_to_save["default"]
            # Of what it stands for: a weight that two of them share is float32 after the first.
            dtype = next(wrapper.original_module.parameters()).dtype
            if dtype != torch.float32:
                module.float()
                module.register_forward_pre_hook(_in_its_precision)
                module.register_forward_hook(partial(_back, dtype))


def _in_its_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # Asked each time: DeepSpeed keeps float32 masters itself, and the module in 16 bits.
    dtype = next(module.parameters()).dtype
    return tuple(_cast(each, dtype) for each in inputs)


def _back(dtype: torch.dtype, _module: nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401
    return _cast(output, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - whatever a module is given
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_floating else value
