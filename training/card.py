"""The model card: what a folder of weights is, how it was made, and how to use it. Light.

Nothing in it tells of the machine: names as users know them, no paths, no keys.
"""

import json
from dataclasses import dataclass

from training.config import TrainingConfig
from training.ledger import Numbers

_ROOM = """\
if len(tokenizer) > base.get_input_embeddings().num_embeddings:
    base.resize_token_embeddings(len(tokenizer))
"""
_SETTINGS = "base.generation_config = GenerationConfig.from_pretrained(FOLDER)\n"


@dataclass(frozen=True)
class Card:
    """The facts of a card.

    Attributes:
        start: The adapter that training went on from.
        config: Resolved.
        data_in_words: What the training data was, in a sentence or two.
        metrics: The last value of every metric.
        has_settings: Whether the adapter has settings of generation beside it; see `usage`.
    """

    name: str
    base_model: str
    start: str | None
    config: TrainingConfig
    seed: int
    num_steps: int
    data_in_words: str
    metrics: Numbers
    has_encoder: bool = False
    has_settings: bool = False

    def in_markdown(self) -> str:
        return f"{self._header()}\n{self._body()}"

    @property
    def _is_adapter(self) -> bool:
        return self.config.adapter.type != "none"

    def _header(self) -> str:
        tags = ["tunesmith", "lora", "sft"] if self._is_adapter else ["tunesmith", "sft"]
        library = "peft" if self._is_adapter else "transformers"
        return front_matter(self.base_model, library, tags, has_encoder=self.has_encoder)

    def _body(self) -> str:
        return (
            f"# {self.name}\n\n{self._method()} of `{self.base_model}`{self._going_on()}, "
            f"{self.num_steps} steps, seed {self.seed}.\n\n"
            f"## Data\n\n{self.data_in_words}\n\n"
            f"## Results\n\n{self._results()}\n\n"
            f"## Use\n\n```python\n{self._usage()}\n```\n\n"
            f"## Configuration\n\n```json\n{self._configuration()}\n```\n"
        )

    def _method(self) -> str:
        quantization = self.config.model.quantization
        if not self._is_adapter:
            return "Full fine-tuning"
        if quantization is None:
            return "LoRA fine-tuning"
        return f"LoRA fine-tuning on {quantization.bits}-bit weights"

    def _going_on(self) -> str:
        return "" if self.start is None else f", going on from `{self.start}`"

    def _results(self) -> str:
        rows = [
            f"| {name} | {value:.6g} |" for name, value in self.metrics.items() if value is not None
        ]
        return "\n".join(["| metric | last value |", "|---|---|", *rows])

    def _usage(self) -> str:
        if self._is_adapter:
            return adapter_usage(
                self.config, has_encoder=self.has_encoder, has_settings=self.has_settings
            )
        return model_usage(has_encoder=self.has_encoder)

    def _configuration(self) -> str:
        return shown(self.config)


def front_matter(base_model: str, library: str, tags: list[str], *, has_encoder: bool) -> str:
    """What a hub reads of a card; JSON strings are YAML strings, whatever a name holds."""
    task = "text2text-generation" if has_encoder else "text-generation"
    return (
        f"---\nbase_model: {json.dumps(base_model)}\nlibrary_name: {library}\n"
        f"pipeline_tag: {task}\ntags: {json.dumps(tags)}\n---\n"
    )


def loader_of(*, has_encoder: bool) -> str:
    """The class of transformers that loads a whole model."""
    return "AutoModelForSeq2SeqLM" if has_encoder else "AutoModelForCausalLM"


def model_usage(*, has_encoder: bool) -> str:
    """How a folder with a whole model is loaded, in Python."""
    loader = loader_of(has_encoder=has_encoder)
    return (
        f"from transformers import {loader}, AutoTokenizer\n\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        f"model = {loader}.from_pretrained(FOLDER)"
    )


def adapter_usage(config: TrainingConfig, *, has_encoder: bool, has_settings: bool) -> str:
    """How a folder with an adapter is loaded, in Python.

    Args:
        config: Of the run.
        has_encoder: Whether the base has one.
        has_settings: Whether the folder says where a generation stops, because the base's own
            settings do not stop where the adapter was taught to.
    """
    loader = loader_of(has_encoder=has_encoder)
    names = f"{loader}, AutoTokenizer{', GenerationConfig' if has_settings else ''}"
    return (
        "from peft import PeftModel\n"
        f"from transformers import {names}\n\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
        f"base = {loader}.from_pretrained(BASE_MODEL_FOLDER)\n"
        f"{_SETTINGS if has_settings else ''}"
        f"{_ROOM if config.model.adds_tokens else ''}"
        "model = PeftModel.from_pretrained(base, FOLDER)"
    )


def shown(config: TrainingConfig) -> str:
    """A configuration without what its owner may have put into it of other people's words."""
    return config.model_dump_json(indent=2, exclude={"evaluation": {"sample_prompts"}})
