"""Adapters trained for a few steps without a run around them, and models of every shape for it."""

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from training.adapters import ADAPTERS, Origin, Trainable
from training.checkpoint import restore_weights, saved_adapter, write_weights
from training.config import TrainingConfig
from training.model import load_model

_SIZES: Mapping[str, Any] = {
    "vocab_size": 400,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_LLAMA: Mapping[str, Any] = {
    **_SIZES,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
IDS_BT = torch.arange(40).view(2, 20) * 7 + 3


def make_mixtral(folder: Path) -> Path:
    """Experts in one tensor, and a head that is not its embedding."""
    config = MixtralConfig(**_LLAMA, num_local_experts=4, num_experts_per_tok=2)
    return _save(MixtralForCausalLM, config, folder)


def make_qwen_moe(folder: Path) -> Path:
    config = Qwen3MoeConfig(
        **_LLAMA, moe_intermediate_size=32, head_dim=16, num_experts=4, num_experts_per_tok=2
    )
    return _save(Qwen3MoeForCausalLM, config, folder)


def make_glm_moe(folder: Path) -> Path:
    """Linear layers that have the names PEFT takes for those of the experts beside them."""
    config = Glm4MoeConfig(
        **_LLAMA,
        moe_intermediate_size=32,
        head_dim=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        first_k_dense_replace=1,
    )
    return _save(Glm4MoeForCausalLM, config, folder)


def make_gpt2(folder: Path) -> Path:
    """Weights that are stored as (in, out), and a tied head."""
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(**_SIZES, **dropout, n_embd=64, n_layer=2, n_head=4, n_positions=256)
    return _save(GPT2LMHeadModel, config, folder)


def make_mamba(folder: Path) -> Path:
    """A state that runs on; its kernels read a weight past whatever adapts it."""
    sizes = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
    return _save(MambaForCausalLM, MambaConfig(**_SIZES, **sizes), folder)


def with_tokenizer(model: Path, other: Path) -> Path:
    """The model, with all of the other one that it has not itself."""
    for path in other.iterdir():
        if not (model / path.name).exists():
            shutil.copy(path, model)
    return model


def _save(kind: type[PreTrainedModel], config: Any, folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    model.save_pretrained(folder)
    return folder


EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "gpt2": make_gpt2,
    "mamba": make_mamba,
    "mixtral": make_mixtral,
    "qwen": make_qwen_moe,
    "glm": make_glm_moe,
}


class Folders(dict[str, Path]):
    """Models by name, made when they are asked for."""

    def __init__(self, llama: Path, root: Path) -> None:
        super().__init__(llama=llama)
        self._root = root

    def __missing__(self, name: str) -> Path:
        self[name] = MAKERS[name](self._root / name)
        return self[name]


def config_of(**sections: Any) -> TrainingConfig:
    """A configuration in float32, unless told otherwise."""
    model = {"dtype": "float32", **sections.pop("model", {})}
    return TrainingConfig.model_validate({"model": model, **sections})


def adapted_model(
    folder: Path, config: TrainingConfig, saved: Path | None = None, seed: int = 1
) -> Trainable:
    """The model of `folder` with its adapter, going on with the one saved in `saved`."""
    base = load_model(folder, config)
    torch.manual_seed(seed)
    state = None if saved is None else saved_adapter(saved)
    model = ADAPTERS[config.adapter.type](base, config.adapter, Origin("tiny", folder, state))
    if saved is not None:
        restore_weights(model, saved)
    return model


def train_steps(
    model: Trainable, num_steps: int, state: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train, and return the optimiser's state to go on with."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    if state is not None:
        # Else both would write into the same moments.
        optimizer.load_state_dict(copy.deepcopy(state))
    model.train()
    for _ in range(num_steps):
        model(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return copy.deepcopy(optimizer.state_dict())


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> Tensor:
    logits_BTV: Tensor = model.eval()(input_ids=IDS_BT, use_cache=False).logits
    return logits_BTV.float()


def reopened(folder: Path, adapter: Path, **options: Any) -> PeftModel:
    """Base and adapter, opened as anybody would."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    return PeftModel.from_pretrained(base, adapter)


def written(model: Trainable, folder: Path) -> Path:
    folder.mkdir()
    write_weights(model, folder)
    return folder
