"""Measure how fast rows become batches, against TRL's SFTTrainer, on one CPU thread.

    python -m benchmarks.bench_preparation [--rows 4000] [--rounds 3] [--many 1000000]
        [--trl-python PYTHON] [--model FOLDER] [--file ROWS.jsonl]

Both parse, render, tokenise, mask and pack the same rows with the same tokenizer and template into
blocks of 2,048 tokens, each time in a process of its own and in turns; the median of their CPU
time counts. Both have to find the same tokens, and the same ones that take loss. Nothing is kept
between the rounds. Rows and a tokenizer are made from a fixed seed, unless files are named.

`questions`  one question and its answer, as long as those of the alpaca set
`talks`      two to eight turns
`many`       a million short questions and answers, prepared once, for the memory that it takes
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.packing import pack

MAX_LENGTH = 2048
_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# TRL masks by marks alone, which the template of most models does not have.
_MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SYLLABLES = [
    a + b for a in "bcdfghlmnprstvw" for b in ("a", "e", "i", "o", "u", "en", "ar", "ion")
]


class Words:
    """Text with as many different words as people use: a few often, most of them hardly ever."""

    def __init__(self, num_words: int = 40_000) -> None:
        self._random = random.Random(1)
        made = {
            "".join(self._random.choices(_SYLLABLES, k=self._random.randint(1, 4)))
            for _ in range(num_words)
        }
        self._words = sorted(made, key=lambda word: (len(word), word))
        self._weights = list(itertools.accumulate(1 / (i + 10) for i in range(len(self._words))))

    def text(self, num_words: int) -> str:
        words = self._random.choices(self._words, cum_weights=self._weights, k=num_words)
        pieces = []
        for word in words:
            chance = self._random.random()
            pieces.append(word.capitalize() if chance < 0.1 else word)
            pieces.append(
                ". " if chance < 0.08 else ", " if chance < 0.14 else "\n" if chance > 0.98 else " "
            )
        return "".join(pieces).strip()

    def length(self, mean: float) -> int:
        return max(2, int(self._random.lognormvariate(0, 0.8) * mean / 1.38))

    def row(self, num_rounds: int, question: float, answer: float) -> dict[str, Any]:
        messages = []
        for _ in range(num_rounds):
            messages += [
                {"role": "user", "content": self.text(self.length(question))},
                {"role": "assistant", "content": self.text(self.length(answer))},
            ]
        return {"messages": messages}

    def questions(self, count: int) -> Iterator[dict[str, Any]]:
        return (self.row(1, 20, 110) for _ in range(count))

    def short(self, count: int) -> Iterator[dict[str, Any]]:
        """A hundred rows again and again: the memory of many is asked for, not their words."""
        rows = [self.row(1, 4, 8) for _ in range(100)]
        return itertools.islice(itertools.cycle(rows), count)

    def talks(self, count: int) -> Iterator[dict[str, Any]]:
        return (self.row(self._random.randint(1, 4), 30, 80) for _ in range(count))


def make_model(folder: Path) -> None:
    """A tokenizer of 16,000 tokens with its template, and a model that is hardly one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16_000,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = Words()
    backend.train_from_iterator((words.text(200) for _ in range(3000)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    small = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(small).save_pretrained(folder)


def link_model(source: Path, folder: Path) -> None:
    """A model as it is, but for its template: both sides write the same text."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(_TEMPLATE)


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    with path.open("w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def _run(command: list[str]) -> dict[str, Any]:
    environment = {**os.environ, **_ENVIRONMENT}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _prepared(model: Path, rows: Path) -> dict[str, Any]:
    arguments = [str(model), str(rows), "messages", str(MAX_LENGTH)]
    return _run([sys.executable, "-m", "benchmarks.preparation_ours", *arguments])


def _measure_memory(model: Path, rows: Path) -> None:
    found = _prepared(model, rows)
    print(
        f"many       {found['rows']} rows of {found['tokens'] / found['rows']:4.0f} tokens: "
        f"{found['rows'] / found['seconds']:8.0f} rows/s in {found['peak_bytes'] / 1e6:.0f} MB"
    )


def _compare(name: str, model: Path, rows: Path, options: argparse.Namespace) -> None:
    marked = model / "marked.jinja"
    marked.write_text(_MARKED)
    theirs_command = [options.trl_python, str(_ROOT / "benchmarks" / "preparation_trl.py")]
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(_prepared(model, rows))
        if options.trl_python:
            arguments = [str(model), str(rows), str(marked), str(MAX_LENGTH)]
            theirs.append(_run([*theirs_command, *arguments]))
    first = ours[0]
    speed = first["rows"] / statistics.median(each["seconds"] for each in ours)
    print(
        f"{name:10} {first['rows']:6} rows of {first['tokens'] / first['rows']:4.0f} tokens: "
        f"{speed:8.0f} rows/s; found prepared in {ours[-1]['found_seconds']:.3f} s"
    )
    if theirs:
        other = theirs[0]
        their_speed = other["rows"] / statistics.median(each["seconds"] for each in theirs)
        same = all(first[key] == other[key] for key in ("rows", "tokens", "targets"))
        print(
            f"{'':10} TRL: {their_speed:8.0f} rows/s, ours {speed / their_speed:.1f} times that; "
            f"{'the same tokens and targets' if same else f'DIFFERENT: {first} {other}'}"
        )


def _measure_packing() -> None:
    rng = np.random.default_rng(0)

    def lognormal(mean: int) -> NDArray[np.int64]:
        drawn = np.exp(rng.normal(np.log(mean) - 0.405, 0.9, 50_000))
        return np.clip(drawn, 8, MAX_LENGTH).astype(np.int64)

    short = np.clip(rng.normal(150, 60, 50_000), 8, 1000).astype(np.int64)
    long = rng.integers(1024, MAX_LENGTH + 1, 50_000)
    lengths = {
        "log-normal, mean 565": lognormal(565),
        "log-normal, mean 107": lognormal(107),
        "a fifth of them long": np.where(rng.random(50_000) < 0.2, long, short),
    }
    for name, each in lengths.items():
        began = time.process_time()
        _, ends = pack(each, MAX_LENGTH, 1)
        seconds = time.process_time() - began
        filled = each.sum() / (len(ends) * MAX_LENGTH)
        print(f"packing    50,000 lengths, {name}: {filled:.4f} full in {seconds:.3f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--trl-python", help="an interpreter that has trl")
    parser.add_argument("--model", type=Path, help="a folder with a ChatML tokenizer")
    parser.add_argument("--file", type=Path, action="append", help="rows in messages")
    options = parser.parse_args()
    _measure_packing()
    if not options.trl_python:
        print("TRL is left out: no interpreter is named that has it")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        if options.model is None:
            make_model(model)
        else:
            link_model(options.model, model)
        words = Words()
        files = options.file or [
            _write(Path(folder, "questions.jsonl"), words.questions(options.rows)),
            _write(Path(folder, "talks.jsonl"), words.talks(options.rows // 2)),
        ]
        for file in files:
            _compare(file.stem, model, file, options)
        if options.many:
            _measure_memory(model, _write(Path(folder, "many.jsonl"), words.short(options.many)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
