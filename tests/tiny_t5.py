"""A two-layer T5 with its own tokenizer, made in a second: the model with an encoder of the tests.

As T5's, its tokenizer ends every text with the end of sequence and begins none with anything.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from tests.tiny_model import make_tiny_model


def make_tiny_t5(folder: Path) -> Path:
    """Write a float32 model with random, seeded weights and its tokenizer; returns `folder`."""
    make_tiny_model(folder, chat_template=False)
    for path in folder.iterdir():
        if path.name in {"config.json", "generation_config.json", "model.safetensors"}:
            path.unlink()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", tokenizer.eos_token_id)]
    )
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    return folder
