"""What is trained of a model: one function per adapter type, in the table `ADAPTERS`.

Every function takes the loaded base and returns the model to train. Seeds are set before it is
called, so that the same seed makes the same adapter in every process.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from training.config import AdapterConfig
from training.failures import invalid_spec

Trainable = PreTrainedModel | PeftModel
AddAdapter = Callable[[PreTrainedModel, AdapterConfig, str], Trainable]


def add_lora(model: PreTrainedModel, config: AdapterConfig, base_model: str) -> PeftModel:
    """LoRA (arXiv:2106.09685): weights in float32 on a frozen base of any precision.

    Raises:
        RunError: A target or a module to save does not exist in the model.
    """
    with_weights = {name: part for name, part in model.named_modules() if part._parameters}
    targets = config.target_modules
    if targets != "all-linear":
        linear = {name: part for name, part in with_weights.items() if isinstance(part, nn.Linear)}
        _check_names(targets, linear, "target_modules")
    _check_names(config.modules_to_save, with_weights, "modules_to_save")
    alpha = float(config.lora_alpha)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        # PEFT takes any number; serving engines expect a whole one wherever it is one.
        lora_alpha=cast("int", int(alpha) if alpha.is_integer() else alpha),
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        modules_to_save=list(config.modules_to_save) or None,
    )
    adapted = get_peft_model(model, lora)
    # The card and the config name the model, never a path of this machine.
    adapted.peft_config["default"].base_model_name_or_path = base_model
    return adapted


def train_every_weight(
    model: PreTrainedModel, _config: AdapterConfig, _base_model: str
) -> PreTrainedModel:
    """Full fine-tuning."""
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
    return model.num_parameters(only_trainable=True), model.num_parameters()


def _check_names(asked: Sequence[str], modules: Mapping[str, nn.Module], key: str) -> None:
    """Refuse names that match no module: PEFT overlooks them as long as another one matches."""
    for name in asked:
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            leaves = sorted({module.rsplit(".", 1)[-1] for module in modules})
            raise invalid_spec(
                f"The model has no such module as {name!r}; it has {', '.join(leaves)}.",
                param=f"training.adapter.{key}",
            )
