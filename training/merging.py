"""An adapter and its base become one model, which needs no PEFT to be used.

The base is loaded as it lies in its folder, in 16 or 32 bits, never quantised. Each weight is
merged in float32 and rounded once, so that a small change is not lost on the way to 16 bits; what
is lost by that last rounding is measured and told. The written model is opened again and has to
answer like base and adapter together before it counts.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from training.added_tokens import Vocabulary, make_room
from training.checkpoint import ADAPTER_FILE
from training.export import write_settings
from training.failures import RunError, invalid_spec
from training.model import load_config, load_plain_model
from training.probing import (
    distance,
    logits_of,
    probe_of,
    require_same_answers,
    rounding_noise,
)
from training.reporting import Reporter
from training.written import check_model

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""How far the merged model may answer from base and adapter, by the precision of its weights."""
_NOISE = 2
"""And how much farther than its own rounding moves it, where that is more."""
_MUCH_LOST = 0.5
_NO_NEWS = (
    "All adapters are already merged",  # layer by layer, below
    "Model (has|with) `tie_word_embeddings=True`",  # tied weights are parted
    "Input and output embeddings are no longer tied",
    "Found missing adapter keys",  # refused, below
)
"""What PEFT warns of, and is seen to here."""


@dataclass(frozen=True)
class Merger:
    """What is merged, and how the result is written.

    Attributes:
        base: The folder of the model under the adapter, or of one that was trained whole.
        adapter: None for the latter.
        dtype: Of the written weights; "auto": the base's own.
        settings: Of generation, where those of the base will not do.
    """

    base: Path
    adapter: Path | None
    tokenizer: PreTrainedTokenizerBase
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    max_shard_size: str
    settings: GenerationConfig | None

    def write(self, folder: Path, reporter: Reporter) -> None:
        """Fill `folder` with the merged model and its tokenizer.

        Raises:
            RunError: The base or the adapter cannot be used, or the two and what was written of
                them do not agree.
        """
        reporter.enter("loading_model")
        _refuse_quantized(self.base)
        model = load_plain_model(
            self.base, "auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        )
        # Rows of tokens that the base does not have are the adapter's.
        make_room(model, Vocabulary(self.tokenizer))
        probe = probe_of(self.tokenizer)
        if self.adapter is None:
            expected_TV = logits_of(model, probe)
        else:
            model, expected_TV = _merged(model, self.adapter, probe, reporter)
        reporter.enter("saving")
        self._save(model, folder)
        dtype = model.dtype
        del model  # the memory of one model is enough
        reporter.enter("checking")
        check_model(folder)
        written = load_plain_model(folder, "auto")
        found_TV = logits_of(written, probe)
        require_same_answers(
            found_TV,
            expected_TV,
            tolerance=_TOLERANCE[dtype],
            what="The merged model",
            noise=lambda: _NOISE * rounding_noise(written, probe),
        )

    def _save(self, model: PreTrainedModel, folder: Path) -> None:
        model.config.use_cache = True
        model.save_pretrained(folder, max_shard_size=self.max_shard_size)
        write_settings(folder, self.settings)
        self.tokenizer.save_pretrained(folder)


def _merged(
    base: PreTrainedModel, adapter: Path, probe: Tensor, reporter: Reporter
) -> tuple[PreTrainedModel, Tensor]:
    """The merged model, and what base and adapter answered before."""
    with warnings.catch_warnings():
        for message in _NO_NEWS:
            warnings.filterwarnings("ignore", message=message)
        adapted = PeftModel.from_pretrained(base, str(adapter))
        _require_loaded(adapted, adapter)
        expected_TV = logits_of(adapted, probe)
        with adapted.disable_adapter():
            effect = distance(logits_of(adapted, probe), expected_TV)
        reporter.enter("merging")
        lost = _merge_layers(adapted, reporter)
        model: PreTrainedModel = adapted.merge_and_unload()
    _tell(reporter, model, effect, lost)
    return model, expected_TV


def _merge_layers(adapted: PeftModel, reporter: Reporter) -> float:
    """Merge each layer in float32; the share of the change that rounding took."""
    changed = rounded_off = 0.0
    _part_shared_weights(adapted)
    for layer in adapted.modules():
        if not isinstance(layer, LoraLayer):
            continue
        parameters = list(layer.get_base_layer().parameters(recurse=False))
        dtypes = [parameter.dtype for parameter in parameters]
        for parameter in parameters:
            parameter.data = parameter.data.float()
        before = [parameter.data.clone() for parameter in parameters]
        layer.merge(safe_merge=True)
        for parameter, dtype, old in zip(parameters, dtypes, before, strict=True):
            exact = parameter.data
            parameter.data = exact.to(dtype)
            changed += float((exact - old).square().sum())
            rounded_off += float((exact - parameter.data.float()).square().sum())
        reporter.beat()
    return (rounded_off / changed) ** 0.5 if changed else 0.0


def _part_shared_weights(adapted: PeftModel) -> None:
    """Give every adapted layer a weight of its own: a change must not reach what it is tied to."""
    uses: dict[int, int] = {}
    for module in adapted.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            for name, parameter in list(base.named_parameters(recurse=False)):
                if uses[id(parameter)] > 1:
                    setattr(base, name, nn.Parameter(parameter.detach().clone()))


def _tell(reporter: Reporter, model: PreTrainedModel, effect: float, lost: float) -> None:
    facts = {"dtype": str(model.dtype).removeprefix("torch."), "effect": effect, "rounded": lost}
    words = (
        f"The adapter changes the answers to a probe by {effect:.2%}; {facts['dtype']} keeps "
        f"{max(0.0, 1 - lost):.1%} of the change of the weights"
    )
    if lost > _MUCH_LOST:
        reporter.warn(f'{words}: ask for "float32" to keep all of it.', **facts)
    else:
        reporter.tell(f"{words}.", **facts)


def _refuse_quantized(base: Path) -> None:
    if getattr(load_config(base), "quantization_config", None) is not None:
        raise invalid_spec(
            "The base model's own weights are quantised, so that nothing can be merged into them "
            "without loss.",
            param="kind",
            remedy="Export the adapter, or train on the model that the quantised one was made of.",
        )


def _require_loaded(adapted: PeftModel, adapter: Path) -> None:
    """PEFT passes over what it cannot place: what it holds has to be what the file says.

    It holds modules that were trained whole in the precision of the base.

    Raises:
        RunError: It is not.
    """
    state = load_file(adapter / ADAPTER_FILE)
    loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    differing = sorted(state.keys() ^ loaded.keys()) or sorted(
        name for name in state if not torch.equal(state[name].to(loaded[name].dtype), loaded[name])
    )
    if differing:
        raise RunError(
            "checkpoint_mismatch",
            f"The adapter does not fit its base model: {differing[0]}.",
            fault="spec",
            remedy="Export it with the base model that it was trained on.",
        )
