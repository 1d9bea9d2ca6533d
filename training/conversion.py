"""A GGUF file turned into a normal model folder; apart because only setting up a model needs it.

Quantised GGUF weights are dequantised, so the folder can be trained, quantised anew and saved.
"""

import logging
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from training.run_directory import remove_folder

log = logging.getLogger(__name__)


def convert_gguf(gguf_file: Path, target: Path) -> None:
    """Write the model and tokenizer of `gguf_file` to the folder `target`, in bfloat16.

    `target` appears only when it is complete.

    Raises:
        FileExistsError: `target` is there already.
        OSError, ValueError: The file cannot be read as a GGUF model.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it, or choose another folder")
    folder, name = str(gguf_file.parent), gguf_file.name
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    log.info("Reading the tokenizer and the weights of %s", gguf_file)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    try:
        tokenizer.save_pretrained(temporary)
        model.save_pretrained(temporary)
        temporary.rename(target)
    except BaseException:
        remove_folder(temporary)
        raise
    log.info("Wrote %s: %s parameters", target, f"{model.num_parameters():,}")
