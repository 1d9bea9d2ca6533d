"""The card of an export: what it was made of, and how it is used. Light, as `card` is."""

from dataclasses import dataclass

from training.card import front_matter, shown, usage
from training.export_spec import ExportSpec

_LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


@dataclass(frozen=True)
class ExportCard:
    """The card of what `spec` asks for; `filename` is that of a GGUF file."""

    spec: ExportSpec
    has_encoder: bool
    filename: str | None = None

    def in_markdown(self) -> str:
        made = self.spec.export.made
        tags = ["tunesmith", "sft", *(["lora"] if self.spec.adapter_path else [])]
        header = front_matter(
            self.spec.base_model,
            _LIBRARIES[made],
            [*tags, *(["gguf"] if made == "gguf" else [])],
            has_encoder=self.has_encoder,
        )
        return (
            f"{header}\n# {self.spec.name}\n\n{self._origin()}\n\n## Use\n\n{self._use()}\n\n"
            f"## How it was trained\n\n```json\n{shown(self.spec.training)}\n```\n"
        )

    def _origin(self) -> str:
        spec = self.spec
        at = "" if spec.step is None else f", as it was at step {spec.step} of the training"
        if spec.adapter_path is None:
            return f"`{spec.base_model}` with all its weights trained{at}.{self._form()}"
        if spec.export.made == "adapter":
            return f"A LoRA adapter for `{spec.base_model}`{at}."
        return f"`{spec.base_model}` with a LoRA adapter merged into it{at}.{self._form()}"

    def _form(self) -> str:
        if self.spec.export.made == "gguf":
            return f" For llama.cpp, in {self.spec.export.outtype}."
        return ""

    def _use(self) -> str:
        made = self.spec.export.made
        if made == "gguf":
            return f"```sh\nllama-cli -m {self.filename} -cnv\n```"
        code = usage(self.spec.training, is_adapter=made == "adapter", has_encoder=self.has_encoder)
        return f"```python\n{code}\n```"
