"""The card of an export: what it was made of, and how it is used. Light, as `card` is."""

from dataclasses import dataclass

from training.card import adapter_usage, front_matter, model_usage, shown
from training.export_spec import ExportSpec

_LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


@dataclass(frozen=True)
class ExportCard:
    """The card of what `spec` asks for.

    Attributes:
        filename: Of a GGUF file.
        has_settings: Whether an adapter has settings of generation beside it.
    """

    spec: ExportSpec
    has_encoder: bool
    filename: str | None = None
    has_settings: bool = False

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
        return f"```python\n{self._code()}\n```"

    def _code(self) -> str:
        if self.spec.export.made == "adapter":
            return adapter_usage(
                self.spec.training, has_encoder=self.has_encoder, has_settings=self.has_settings
            )
        return model_usage(has_encoder=self.has_encoder)
