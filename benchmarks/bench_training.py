"""Measure training against TRL's SFTTrainer, HF's Trainer and a bare loop, on one CPU thread.

    python -m benchmarks.bench_training [--cell tiny] [--cell smollm2] [--rounds 3] [--tokens N]
        [--trl-python PYTHON] [--smollm2 FOLDER] [--rows ALPACA.json] [--engines NAME,NAME]

Every engine trains the same adapter of the same model on the same documents, each time in a process
of its own; the engines take turns, and the median of their CPU time counts, from the call that
trains to the end of its last step. Tokens are those that are not padding.

`tiny`      random Llama: hidden 128, 4 layers, vocabulary 4,096; half of each row takes loss
`smollm2`   SmolLM2-135M-Instruct as `make demo` has it, on questions and answers as long as those
            of the alpaca set, or on the rows of a file

Without an interpreter that has trl, TRL is left out, and it is said.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.training_cells import (
    Cell,
    alpaca_rows,
    make_tiny,
    question_rows,
    tiny_rows,
)
from benchmarks.training_rounds import (
    TRL_PYTHON,
    Bench,
    Contender,
    Measured,
    held_out_loss,
    measure,
    that_can_run,
)
from benchmarks.training_task import Recipe

_ROOT = Path(__file__).parents[1]

CONTENDERS = (
    Contender("trl_padded", "trl", False, 8),
    Contender("trl_packed_1", "trl", True, 1),
    Contender("trl_packed_2", "trl", True, 2),
    Contender("hf_packed", "hf", True, 2),
    Contender("bare", "bare", True, 2),
    Contender("tunesmith_rows", "tunesmith", False, 8),
    Contender("tunesmith", "tunesmith", True, 2),
)


_WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def report(cell: Cell, bench: Bench, results: Mapping[str, Measured]) -> None:
    print(
        f"\n{cell.name}: {bench.num_documents} documents, {bench.num_tokens} tokens, "
        f"{len(next(iter(results.values())).seconds)} rounds\n"
    )
    print("| engine | CPU s | tokens per CPU s | held-out loss |\n|---|---|---|---|")
    held_out = {}
    for name, measured in results.items():
        assert measured.adapter is not None
        held_out[name] = held_out_loss(bench.model, measured.adapter, bench.valid)
        speed = bench.num_tokens / measured.median
        print(f"| {name} | {measured.median:.2f} | {speed:.0f} | {held_out[name]:.4f} |")
    print("\n| what | measured | wanted |\n|---|---|---|")
    for line in _comparisons(cell, results, held_out):
        print(line)


def _comparisons(
    cell: Cell, results: Mapping[str, Measured], held_out: Mapping[str, float]
) -> list[str]:
    own = results.get("tunesmith")
    lines: list[str] = []
    if own is None:
        return lines
    wanted = _WANTED[cell.name]
    packed = [name for name in ("trl_packed_1", "trl_packed_2") if name in results]
    if "trl_padded" in results:
        times = results["trl_padded"].median / own.median
        lines.append(f"| times TRL's default | {times:.2f} | ≥ {wanted['default']} |")
        pairs = zip(results["trl_padded"].losses, own.losses, strict=True)
        apart = max(abs(one - other) for one, other in pairs)
        lines.append(f"| loss of a document, largest difference | {apart:.1e} | < 1e-3 |")
    if packed:
        best = min(packed, key=lambda name: results[name].median)
        times = results[best].median / own.median
        lines.append(f"| times TRL's best packed | {times:.2f} | ≥ {wanted['packed']} |")
        apart = abs(held_out["tunesmith"] / held_out["trl_packed_2"] - 1)
        lines.append(f"| held-out loss, from TRL's packed by | {apart:.2%} | < 2 % |")
    if "bare" in results:
        over = own.over(results["bare"])
        most = f"< {wanted['overhead']:.0%}"
        lines.append(f"| a step, over one of a bare loop | {over:.1%} | {most} |")
    return lines


_WANTED: Mapping[str, Mapping[str, float]] = {
    "tiny": {"default": 4.2, "packed": 1.5, "overhead": 0.08},
    "smollm2": {"default": 2.7, "packed": 1.5, "overhead": 0.03},
}


def _cells(arguments: argparse.Namespace) -> list[Cell]:
    rows = question_rows if arguments.rows is None else alpaca_rows(arguments.rows)
    cells = {
        "tiny": Cell("tiny", make_tiny, tiny_rows, 12_500, Recipe(2e-3)),
        "smollm2": Cell("smollm2", lambda _folder: arguments.smollm2, rows, 3_000, Recipe(2e-4)),
    }
    chosen = arguments.cell or [
        name for name in cells if name != "smollm2" or arguments.smollm2.is_dir()
    ]
    return [
        replace(cells[name], num_tokens=arguments.tokens or cells[name].num_tokens)
        for name in chosen
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", action="append", choices=("tiny", "smollm2"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--trl-python", default=TRL_PYTHON)
    parser.add_argument("--smollm2", type=Path, default=_ROOT / "demo" / "model")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--engines", help="names, with commas; all of them by default")
    arguments = parser.parse_args()
    names = arguments.engines.split(",") if arguments.engines else [c.name for c in CONTENDERS]
    named = [contender for contender in CONTENDERS if contender.name in names]
    contenders = that_can_run(named, arguments.trl_python)
    with tempfile.TemporaryDirectory() as folder:
        for cell in _cells(arguments):
            print(f"\n{cell.name}, in CPU seconds")
            bench = Bench(cell, Path(folder) / cell.name, arguments.trl_python, _WITHOUT_GPU)
            report(cell, bench, measure(bench, contenders, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
