"""Measure training on one GPU against TRL's SFTTrainer and a bare loop: LoRA and QLoRA, packed.

    python -m benchmarks.bench_gpu [--rounds 2] [--tokens 262144] [--cell lora] [--cell qlora]
        [--trl-python PYTHON] [--tiny]

A Llama of the shape of Llama 3 8B with random weights, in bfloat16 or in nf4, blocks of 2,048
tokens, gradient checkpointing, FlashAttention where it is installed. Every engine trains the same
adapter on the same documents, each time in a process of its own, in turns; the median of the
clock counts. Tokens are those that are not padding. What a model does for a token is taken as
four operations a weight, without attention: an adapter's base has no gradients of its own. MFU is
that against what a large product of matrices reaches on the same device.

`--tiny` trains a very small model, on a CPU as well: to see that the benchmark works, for nothing
else. Without it and without a GPU, nothing is measured, and it is said.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.training_cells import Cell, make_tiny, tiny_rows, write_llama
from benchmarks.training_rounds import (
    TRL_PYTHON,
    Bench,
    Contender,
    Measured,
    measure,
    that_can_run,
)
from benchmarks.training_task import Recipe

_CONTENDERS = (
    Contender("trl_packed", "trl", True, 2),
    Contender("bare", "bare", True, 2),
    Contender("tunesmith", "tunesmith", True, 2),
)
_OPERATIONS_PER_WEIGHT = 4


def _make_8b(folder: Path) -> Path:
    return write_llama(
        folder,
        torch.bfloat16,
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        tie_word_embeddings=False,
    )


def _cells(make: Callable[[Path], Path], num_tokens: int) -> dict[str, Cell]:
    packed = {"block": 2048, "dtype": "bfloat16", "r": 16, "checkpointing": True}
    recipes = {"lora": Recipe(1e-4, **packed), "qlora": Recipe(1e-4, bits=4, **packed)}
    return {name: Cell(name, make, tiny_rows, num_tokens, each) for name, each in recipes.items()}


def _num_weights(folder: Path) -> int:
    """Those that take part in a product: all linear layers, the head among them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    return sum(layer.weight.numel() for layer in layers)


def _fastest_product(size: int) -> float:
    """Operations a second of the best of ten products of bfloat16 matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, other = torch.randn(2, size, size, device=device).bfloat16()
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def _report(cell: Cell, bench: Bench, results: Mapping[str, Measured], fastest: float) -> None:
    print(f"\n{cell.name}: {bench.num_documents} documents, {bench.num_tokens} tokens\n")
    print("| engine | tokens/s | MFU | peak memory |\n|---|---|---|---|")
    needed = _OPERATIONS_PER_WEIGHT * _num_weights(bench.model)
    for name, measured in results.items():
        speed = bench.num_tokens / measured.median
        peak = measured.peak_bytes / 2**30
        print(f"| {name} | {speed:.0f} | {speed * needed / fastest:.1%} | {peak:.1f} GiB |")
    over = results["tunesmith"].over(results["bare"])
    print(f"\nA step takes {over:.1%} more than one of a bare loop.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--cell", action="append", choices=("lora", "qlora"))
    parser.add_argument("--trl-python", default=TRL_PYTHON)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        print("There is no CUDA device: training on a GPU is not measured.")
        return 0
    contenders = that_can_run(_CONTENDERS, options.trl_python)
    fastest = _fastest_product(512 if options.tiny else 8192)
    cells = _cells(make_tiny if options.tiny else _make_8b, options.tokens)
    for name in options.cell or cells:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(cells[name], Path(folder) / name, options.trl_python, {})
            _report(cells[name], bench, measure(bench, contenders, options.rounds), fastest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
