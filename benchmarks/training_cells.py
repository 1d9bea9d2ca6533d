"""The models and rows that training is measured on; see `benchmarks.bench_training`."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from benchmarks.training_task import Recipe
from training.documents import Document
from training.encoding import Encoder
from training.layouts import Layout
from training.rows import PromptCompletion

NUM_HELD_OUT = 32
_LONGEST = 512
_VOCAB_SIZE = 4096
_NUM_FOLLOWERS = 4
_WORDS = [
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "with", "be", "on", "by"),
    *("this", "are", "or", "an", "from", "at", "which", "not", "can", "have", "water", "people"),
    *("time", "model", "energy", "system", "example", "data", "language", "number", "different"),
    *("important", "use", "process", "information", "world", "health", "include", "provide"),
    *("improve", "create", "should", "also", "through", "because", "between", "however"),
]


@dataclass(frozen=True)
class Row:
    prompt: str
    completion: str


@dataclass(frozen=True)
class Cell:
    """What is trained, on what.

    Attributes:
        model: Writes a model folder, or finds it.
        rows: Endless rows, in an order that the random numbers decide.
        num_tokens: Of the documents that are trained on, about.
    """

    name: str
    model: Callable[[Path], Path]
    rows: Callable[[np.random.Generator], Iterator[Row]]
    num_tokens: int
    recipe: Recipe


def make_tiny(folder: Path) -> Path:
    return write_llama(
        folder,
        torch.float32,
        vocab_size=_VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )


def write_llama(folder: Path, dtype: torch.dtype, **shape: float) -> Path:
    """A model with random weights, whose tokens are the words w1, w2 and so on."""
    config = LlamaConfig(bos_token_id=None, eos_token_id=0, pad_token_id=0, **shape)
    backend = Tokenizer(
        models.WordLevel({"</s>": 0, **{f"w{i}": i for i in range(1, _VOCAB_SIZE)}}, "</s>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="</s>", unk_token="</s>"
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()  # the GPU is for the processes that train
    return folder


def tiny_rows(rng: np.random.Generator) -> Iterator[Row]:
    """As many tokens as the other cell's rows; each follows another by a rule to be learned."""
    followers = rng.integers(1, _VOCAB_SIZE, (_VOCAB_SIZE, _NUM_FOLLOWERS))
    while True:
        question, answer = _num_words(rng)
        length = min(int(1.3 * (question + answer)) + 8, _LONGEST - 1)
        words = [int(rng.integers(1, _VOCAB_SIZE))]
        for choice in rng.integers(0, _NUM_FOLLOWERS, length):
            words.append(int(followers[words[-1], choice]))
        texts = [f"w{word}" for word in words]
        half = length // 2
        # The end of sequence is added to the completion.
        yield Row(" ".join(texts[:half]), " ".join(["", *texts[half:length]]))


def question_rows(rng: np.random.Generator) -> Iterator[Row]:
    """Questions and answers of made-up sentences, as long as those of the alpaca set."""
    while True:
        question, answer = (_sentences(rng, number) for number in _num_words(rng))
        yield Row(_asked(question), answer)


def alpaca_rows(path: Path) -> Callable[[np.random.Generator], Iterator[Row]]:
    """The rows of a file of the alpaca set, in a random order."""
    rows = json.loads(path.read_text())

    def shuffled(rng: np.random.Generator) -> Iterator[Row]:
        for i in rng.permutation(len(rows)):
            row = rows[i]
            question = "\n".join(filter(None, (row["instruction"], row.get("input"))))
            yield Row(_asked(question), row["output"])

    return shuffled


def documents(
    rows: Iterator[Row], tokenizer: PreTrainedTokenizerBase, num_tokens: int, longest: int
) -> tuple[list[Row], list[Document]]:
    """Rows of at least `num_tokens` tokens, none of more than `longest`, and what they become."""
    encoder = Encoder(tokenizer, Layout(None, adds_bos=False), train_on="assistant", stop_ids=())
    kept: list[Row] = []
    made: list[Document] = []
    while num_tokens > 0:
        row = next(rows)
        document = encoder.encode(PromptCompletion(0, row.prompt, row.completion))
        if len(document) <= longest and document.num_targets:
            kept.append(row)
            made.append(document)
            num_tokens -= len(document)
    return kept, made


def _num_words(rng: np.random.Generator) -> tuple[int, int]:
    """Of a question and its answer, as those of the alpaca set are spread."""
    question = np.clip(rng.lognormal(2.6, 0.5), 5, 80)
    return int(question), int(np.clip(rng.lognormal(4.09, 1.34), 1, 390))


def _sentences(rng: np.random.Generator, num_words: int) -> str:
    words = rng.choice(_WORDS, num_words).tolist()
    for start in range(0, num_words, 11):
        words[start] = words[start].capitalize()
        words[start - 1] += "." if start else ""
    return " ".join(words) + "."


def _asked(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer
