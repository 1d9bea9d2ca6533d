"""Measure the memory and the time of the loss heads, forward and backward, on one CPU thread.

    python -m benchmarks.bench_loss_head [--rows 4] [--tokens 512] [--vocab 49152] [--hidden 576]

One batch in which half of each row takes loss goes through a Llama of a single layer: with
`transformers`' own loss, with each of `training.loss.HEADS`, and without a head, each in a process
of its own. What a head takes is the peak of its process above that of the one without.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from training.collation import Batch, PaddedCollator
from training.documents import Document
from training.loss import HEADS, model_inputs

_ROUNDS = 3
_BODY = "no head"
_PLAIN = "transformers' own"
_WANTED = {"streamed": "≤ 50 %"}


def _body(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    hidden_BTH: Tensor = model.model(**model_inputs(batch)).last_hidden_state
    return hidden_BTH.square().mean()


def _plain(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    labels_BT = torch.full_like(batch["input_ids"], -100)
    labels_BT.view(-1)[batch["places"] + 1] = batch["targets"]
    loss: Tensor = model(**model_inputs(batch), labels=labels_BT).loss
    return loss


def _losses() -> Mapping[str, Callable[[LlamaForCausalLM, Batch], Tensor]]:
    """Means per token that takes loss, by the name of the way to them."""

    def mean(name: str) -> Callable[[LlamaForCausalLM, Batch], Tensor]:
        return lambda model, batch: HEADS[name](model, batch).loss_sum / len(batch["targets"])

    return {_BODY: _body, _PLAIN: _plain} | {name: mean(name) for name in HEADS}


def _batch(rows: int, tokens: int, vocab_size: int) -> Batch:
    rng = np.random.default_rng(0)
    is_target = np.arange(tokens) >= tokens // 2
    documents = [
        Document(rng.integers(0, vocab_size, tokens, dtype=np.int32), is_target)
        for _ in range(rows)
    ]
    return PaddedCollator(0)(documents)


def _model(options: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.hidden,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    # As with LoRA: the head passes gradients on, and has none of its own.
    model.get_input_embeddings().requires_grad_(False)
    return model


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """Peak bytes of this process above those before the step, its CPU seconds, and its loss."""
    model, loss_of = _model(options), _losses()[options.way]
    batch = _batch(options.rows, options.tokens, options.vocab)
    loss_of(model, _batch(1, 16, options.vocab)).backward()
    model.zero_grad()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    seconds = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        loss = loss_of(model, batch)
        loss.backward()
        seconds.append(time.process_time() - began)
        model.zero_grad()
    peak = _status("VmHWM") - before
    return {"bytes": peak, "seconds": min(seconds), "loss": float(loss)}


def _status(key: str) -> int:
    """A figure of this process that the kernel keeps, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _run(way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_loss_head", *sys.argv[1:], "--way", way]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--way", choices=_losses(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(_measure(options)))
        return 0
    found = {way: _run(way) for way in _losses()}
    body, plain = found.pop(_BODY), found[_PLAIN]
    print(
        "| head | memory | of transformers' own | wanted | CPU | loss |\n|---|---|---|---|---|---|"
    )
    for way, each in found.items():
        taken, whole = each["bytes"] - body["bytes"], plain["bytes"] - body["bytes"]
        print(
            f"| {way} | {taken / 1e6:.0f} MB | {taken / whole:.0%} | {_WANTED.get(way, '')} "
            f"| {each['seconds'] - body['seconds']:.2f} s | {each['loss']:.5f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
