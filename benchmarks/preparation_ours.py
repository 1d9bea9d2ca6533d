"""Prepares rows as a run does, and prints what it took: one contender of `bench_preparation`.

python -m benchmarks.preparation_ours MODEL ROWS.jsonl FORMAT MAX_LENGTH
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from training.data import plan_data
from training.data_config import DataConfig
from training.encoding import Encoder
from training.layouts import choose_layout
from training.model import load_tokenizer
from training.packing import pack
from training.prepared import Shelf
from training.reading import DataReader
from training.run_spec import DatasetSource


def main(model: str, rows: str, format: str, max_length: str) -> None:
    tokenizer = load_tokenizer(Path(model))
    config = DataConfig(max_length=int(max_length), packing=True)
    source = DatasetSource.model_validate({"path": rows, "format": format})
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        layout = choose_layout(tokenizer, config, {source.format})
        encoder = Encoder(tokenizer, layout, train_on="assistant", stop_ids=())
        reader = DataReader(encoder, config, Shelf(Path(folder)), lambda: None)
        plan = plan_data(reader, [source], [], config, 1)
        _, ends = pack(plan.train.lengths, int(max_length), 1)
        seconds = time.process_time() - began
        found_began = time.perf_counter()
        again = plan_data(reader, [source], [], config, 1)
        found_seconds = time.perf_counter() - found_began
        assert again.num_found == 1
    print(
        json.dumps(
            {
                "seconds": seconds,
                "rows": len(plan.train),
                "tokens": plan.train.num_tokens,
                "targets": plan.train.num_targets,
                "blocks": len(ends),
                "found_seconds": found_seconds,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
