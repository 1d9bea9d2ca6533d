"""Prepares rows as TRL's SFTTrainer does, and prints what it took; needs nothing of ours.

    PYTHON benchmarks/preparation_trl.py MODEL ROWS.jsonl TEMPLATE.jinja MAX_LENGTH

Counted is what SFTTrainer does before it trains: loading the rows and preparing the data set.
"""

import json
import sys
import tempfile
import time

import datasets
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer


def main(model: str, rows: str, template: str, max_length: str) -> None:
    datasets.disable_progress_bars()
    datasets.disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with open(template) as file:  # noqa: PTH123
        tokenizer.chat_template = file.read()
    small = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    spent = []
    prepare = SFTTrainer._prepare_dataset

    def timed(*args: object, **kwargs: object) -> object:
        began = time.process_time()
        prepared = prepare(*args, **kwargs)
        spent.append(time.process_time() - began)
        return prepared

    SFTTrainer._prepare_dataset = timed
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        data = datasets.load_dataset(
            "json", data_files=rows, split="train", cache_dir=f"{folder}/cache"
        )
        loading = time.process_time() - began
        settings = SFTConfig(
            output_dir=folder,
            max_length=int(max_length),
            packing=True,
            assistant_only_loss=True,
            report_to="none",
            use_cpu=True,
            bf16=False,
        )
        trainer = SFTTrainer(
            model=LlamaForCausalLM(small), args=settings, train_dataset=data,
            processing_class=tokenizer,
        )  # fmt: skip
        blocks = trainer.train_dataset
        tokens = sum(map(len, blocks["input_ids"]))
        # The first token of a document is never predicted.
        firsts = [
            sum(lengths[:i]) for lengths in blocks["seq_lengths"] for i in range(len(lengths))
        ]
        labels = blocks["labels"]
        targets = sum(label != -100 for row in labels for label in row)
    print(
        json.dumps(
            {
                "seconds": loading + sum(spent),
                "rows": len(firsts),
                "tokens": tokens,
                "targets": targets,
                "blocks": len(blocks),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
