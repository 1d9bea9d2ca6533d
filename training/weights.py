"""The weights of a model in memory and in its files; heavy, unlike `weight_names`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from peft import LoraConfig
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils import transformers_weight_conversion as conversion
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from training.failures import invalid_spec
from training.targets import LINEAR
from training.weight_names import Kind, Weight


def weights_of(model: PreTrainedModel) -> list[Weight]:
    """Every weight of every module, those that two modules share under both names."""
    return list(_weights(model))


def _weights(model: PreTrainedModel) -> Iterator[Weight]:
    embeddings = model.get_input_embeddings()
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for path, module in model.named_modules(remove_duplicate=False):
        kind = _kind(module, embeddings, head)
        for name, parameter in module.named_parameters(recurse=False):
            # A quantised layer holds packed bytes in a shape of their own.
            whole = isinstance(module, nn.Linear) and name == "weight"
            # ZeRO-3 leaves nothing of a weight where it is not used.
            stored = tuple(getattr(parameter, "ds_shape", parameter.shape))
            shape = (module.out_features, module.in_features) if whole else stored
            yield Weight(f"{path}.{name}" if path else name, kind, shape)


def is_in_parts(model: PreTrainedModel) -> bool:
    """Whether ZeRO-3 has taken the weights apart, so that this process alone has none of them."""
    return any(hasattr(parameter, "ds_shape") for parameter in model.parameters())


def taken_names(config: PreTrainedConfig) -> frozenset[str]:
    """Names of linear layers that PEFT translates into those of experts for this architecture.

    It does so for adapters of before the experts lay in one tensor, whatever layer has the name.
    """
    families: dict[str, str] = conversion._MODEL_TO_CONVERSION_PATTERN  # type: ignore[attr-defined]
    family = families.get(str(config.model_type), "")
    return frozenset(conversion._MOE_TARGET_MODULE_MAPPING.get(family, ()))


def barred_names(config: PreTrainedConfig, weights: Iterable[Weight]) -> frozenset[str]:
    """Names of linear layers that PEFT refuses to adapt in this architecture, asked about each."""
    names = {weight.module.rpartition(".")[2] for weight in weights if weight.kind in LINEAR}
    return frozenset(name for name in names if _is_barred(config, name))


def _is_barred(config: PreTrainedConfig, name: str) -> bool:
    try:
        _check_lora_target_modules_mamba(
            LoraConfig(), cast("nn.Module", SimpleNamespace(config=config)), name
        )
    except ValueError:
        return True
    return False


def _kind(module: nn.Module, embeddings: nn.Module | None, head: nn.Module | None) -> Kind:
    if module is head:
        return "head"
    if module is embeddings:
        return "embedding"
    return next((kind for layer, kind in _KINDS.items() if isinstance(module, layer)), "other")


_KINDS: Mapping[type[nn.Module], Kind] = {
    nn.Linear: "linear",
    Conv1D: "conv1d",
    nn.Conv1d: "convolution",
}


class StoredWeights:
    """The weights in the files of a model folder, read one by one."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def read(self, name: str) -> Tensor:
        """The weight of this name, which may lack the prefix of the whole model in the files.

        Raises:
            RunError: There is none.
        """
        for each in (name, name.partition(".")[2]):
            if each in self._files:
                with safe_open(self._files[each], framework="pt") as file:
                    return cast("Tensor", file.get_tensor(each))
        raise invalid_spec(
            f"The model's files hold no {name}, which it is made of when it is loaded.",
            param="training.adapter.init_lora_weights",
            remedy="Set training.adapter.init_lora_weights to true.",
        )
