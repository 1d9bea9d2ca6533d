"""How fast one core checks a data set: MB/s and rows/s, per kind of row.

    python -m benchmarks.bench_formats [--megabytes 64] [--repeats 3]

Rows are made from a fixed seed and fed in chunks of 1 MiB, as the API feeds an upload. The kinds
differ in what the reader has to prove: `plain` is what most files hold, `ascii` spells letters
outside ASCII as escapes, `quotes` holds code, `exact` forces the slow reader on every row.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator

from training.file_check import FileChecker

_CHUNK_BYTES = 1 << 20
_SENTENCE = (
    "the customer writes that an order of three lamps arrived late and one of them does not work "
    "so please send élève naïve façade a ticket with number 4711 in it\n"
)
_WORDS = _SENTENCE.split(" ")


def _text(random_: random.Random, num_words: int) -> str:
    return " ".join(random_.choices(_WORDS, k=num_words))


def _plain(random_: random.Random) -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": _text(random_, 25)},
            {"role": "assistant", "content": _text(random_, 50)},
        ]
    }


def _quotes(random_: random.Random) -> dict[str, object]:
    code = json.dumps({"queue": "repairs", "items": [_text(random_, 40)]}, indent=1)
    return {"prompt": _text(random_, 30), "completion": code}


def _exact(random_: random.Random) -> dict[str, object]:
    row = _plain(random_)
    return row | {"id": "1" * 19}


def _instruct(random_: random.Random) -> dict[str, object]:
    return {"instruction": _text(random_, 25), "input": "", "output": _text(random_, 50)}


_KINDS: dict[str, tuple[Callable[[random.Random], dict[str, object]], bool]] = {
    "plain": (_plain, False),
    "ascii": (_plain, True),
    "instruct": (_instruct, False),
    "quotes": (_quotes, False),
    "exact": (_exact, False),
}


def _chunks(kind: str, num_bytes: int) -> Iterator[bytes]:
    make, ascii_ = _KINDS[kind]
    random_ = random.Random(0)
    rows = [json.dumps(make(random_), ensure_ascii=ascii_) for _ in range(5000)]
    block = ("\n".join(rows) + "\n").encode()
    data = block * (num_bytes // len(block) + 1)
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]


def _measure(kind: str, num_bytes: int) -> tuple[float, float, float]:
    """MB/s, rows/s and bytes a row, by the time of this process's own CPU."""
    chunks = list(_chunks(kind, num_bytes))
    checker = FileChecker()
    begin = time.process_time()
    for chunk in chunks:
        checker.feed(chunk)
    report = checker.finish()
    seconds = time.process_time() - begin
    assert report.num_errors == 0, report.errors[0]
    total = sum(map(len, chunks))
    return total / 1e6 / seconds, report.num_rows / seconds, total / report.num_rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'kind':10}{'bytes/row':>10}{'MB/s':>8}{'rows/s':>10}   best of {arguments.repeats}")
    for kind in _KINDS:
        runs = [_measure(kind, arguments.megabytes * 10**6) for _ in range(arguments.repeats)]
        speed, rows, size = max(runs)
        print(f"{kind:10}{size:10.0f}{speed:8.1f}{rows:10.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
