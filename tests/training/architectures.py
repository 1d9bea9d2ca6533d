"""Tiny models of many architectures, with random weights, made in a moment."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 128
_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS: Mapping[str, Any] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
_OLDER: Mapping[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_STATES: Mapping[str, Any] = {"state_size": 8, "num_hidden_layers": 2}

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "falcon": {"head_dim": None, "num_key_value_heads": None},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 8},
    "glm4": {},
    "gpt2": _OLDER,
    "gpt_neox": {},
    "gpt_oss": {**_EXPERTS, "sliding_window": 8},
    "granite": {"logits_scaling": 8.0},
    "llama": {},
    "mistral": {"sliding_window": 8},
    "mixtral": _EXPERTS,
    "olmo2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {},
    "qwen3_moe": _EXPERTS,
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "bloom": _OLDER,
    "mamba": _STATES,
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_state": 8},
    "qwen3_next": _EXPERTS,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {**_EXPERTS, "mamba_n_heads": 8, "mamba_d_state": 8},
}


def tiny(architecture: str) -> PreTrainedModel:
    """A model in float32 and in evaluation mode; the same one every time."""
    settings = _SIZES | ARCHITECTURES[architecture]
    given = {name: value for name, value in settings.items() if value is not None}
    config = AutoConfig.for_model(architecture, **given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        # Heads begin without their bias, and norms as ones, which would hide what is left out.
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.config.use_cache = False
    return model.eval()
