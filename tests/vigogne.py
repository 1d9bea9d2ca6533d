"""The command that Tunesmith stands for, as JSON: a Llama on one GPU, 8-bit LoRA, packed blocks.

As flat arguments of `training`, in the names of vigogne 2.1 and of 2.2, and canonically.
"""

from collections.abc import Mapping
from typing import Any

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_COMMON: Mapping[str, Any] = {
    "pack_into_block": True,
    "block_size": 2048,
    "load_in_8bit": True,
    "lora_r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 8,
    "num_train_epochs": 3,
    "learning_rate": 1e-4,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0,
    "torch_compile": True,
    "fp16": True,
    "gradient_checkpointing": True,
    "ddp_find_unused_parameters": False,
    "logging_steps": 10,
    "logging_first_step": True,
    "save_strategy": "steps",
    "save_steps": 100,
    "save_total_limit": 3,
    "evaluation_strategy": "steps",
    "eval_steps": 100,
    "report_to": ["tensorboard"],
    "do_train": True,
}
FLAT: Mapping[str, Mapping[str, Any]] = {
    "2.1": {**_COMMON, "mode": "instruct", "target_modules": SEVEN, "compute_dtype": "float16"},
    "2.2": {
        **_COMMON,
        "processor_style": "alpaca",
        "adapter": "lora",
        "lora_target_modules": SEVEN,
        "torch_dtype": "float16",
        "trust_remote_code": False,
    },
}
CANONICAL: Mapping[str, Any] = {
    "data": {
        "format": "instruct",
        "template": "vigogne_alpaca",
        "packing": True,
        "block_size": 2048,
    },
    "model": {"dtype": "float16", "quantization": {"bits": 8}},
    "adapter": {
        "type": "lora", "r": 64, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": SEVEN
    },
    "optimization": {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 8,
        "num_train_epochs": 3,
        "learning_rate": 1e-4,
        "warmup_steps": 0.03,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0,
        "torch_compile": True,
        "gradient_checkpointing": True,
    },
    "checkpoints": {"save_steps": 100, "keep": 3},
    "evaluation": {"eval_steps": 100},
    "reporting": {"logging_steps": 10, "report_to": ["tensorboard"]},
}  # fmt: skip
