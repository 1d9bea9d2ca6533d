"""The model card: what a folder of weights is, how it was made, and how to use it. Light.

Nothing in it tells of the machine: names as users know them, no paths, no keys.
"""

import json
from dataclasses import dataclass

from training.config import TrainingConfig
from training.ledger import Numbers


@dataclass(frozen=True)
class Card:
    """The facts of a card.

    Attributes:
        config: Resolved.
        data_in_words: What the training data was, in a sentence or two.
        metrics: The last value of every metric.
    """

    name: str
    base_model: str
    config: TrainingConfig
    seed: int
    num_steps: int
    data_in_words: str
    metrics: Numbers

    def in_markdown(self) -> str:
        return f"{self._header()}\n{self._body()}"

    @property
    def _is_adapter(self) -> bool:
        return self.config.adapter.type != "none"

    def _header(self) -> str:
        tags = ["tunesmith", "lora", "sft"] if self._is_adapter else ["tunesmith", "sft"]
        library = "peft" if self._is_adapter else "transformers"
        # JSON strings are YAML strings, whatever a name holds.
        return (
            f"---\nbase_model: {json.dumps(self.base_model)}\nlibrary_name: {library}\n"
            f"pipeline_tag: text-generation\ntags: {json.dumps(tags)}\n---\n"
        )

    def _body(self) -> str:
        return (
            f"# {self.name}\n\n{self._method()} of `{self.base_model}`, "
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

    def _results(self) -> str:
        rows = [
            f"| {name} | {value:.6g} |" for name, value in self.metrics.items() if value is not None
        ]
        return "\n".join(["| metric | last value |", "|---|---|", *rows])

    def _usage(self) -> str:
        if not self._is_adapter:
            return (
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
                "model = AutoModelForCausalLM.from_pretrained(FOLDER)"
            )
        return (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
            "base = AutoModelForCausalLM.from_pretrained(BASE_MODEL_FOLDER)\n"
            "model = PeftModel.from_pretrained(base, FOLDER)"
        )

    def _configuration(self) -> str:
        return self.config.model_dump_json(indent=2, exclude={"evaluation": {"sample_prompts"}})
