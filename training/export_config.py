"""What an export makes of a trained model, and where it goes. Light.

One flat object: which keys belong to which kind is the table `KEYS`. The service and the training
process read the same class, so that the one refuses what the other would refuse.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from training.section import Conflict, InWords, Section

Content = Literal["adapter", "merged", "gguf"]
ExportKind = Literal["adapter", "merged", "gguf", "hub"]
OutType = Literal["f32", "f16", "bf16", "q8_0"]
KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "adapter": (),
        "merged": ("dtype", "max_shard_size"),
        "gguf": ("outtype",),
        "hub": ("content", "repo_id", "private", "revision"),
    }
)
GGUF_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""What a GGUF file can be made of; `gguf_export` knows how."""
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"


class ExportConfig(Section):
    """The kind of an export and its options; `hub` takes those of what it pushes as well."""

    kind: ExportKind
    content: Content = Field("adapter", description="hub: what is pushed.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="merged: of the weights; auto: the base model's own."
    )
    max_shard_size: Annotated[
        str,
        Field(pattern=r"^[1-9][0-9]{0,5}(MB|GB)$"),
        InWords('a whole number of MB or GB, such as "500MB"'),
    ] = Field("5GB", description="merged: the most that one safetensors file holds.")
    outtype: OutType = Field("f16", description="gguf: of the weights, in llama.cpp's words.")
    repo_id: (
        Annotated[
            str, Field(pattern=rf"^{_NAME}/{_NAME}$"), InWords('a hub repository, "owner/name"')
        ]
        | None
    ) = Field(None, description="hub: the repository, made if it is not there.")
    private: bool = Field(default=True, description="hub: of a repository that is made.")
    revision: Annotated[
        str,
        Field(pattern=rf"^{_NAME}$"),
        InWords("a branch's name of letters, digits, ., _ and -"),
    ] = Field("main", description="hub: the branch.")

    def _conflicts(self) -> Iterator[Conflict]:
        others = ExportConfig.model_fields.keys() - {"kind", *self.options()}
        foreign = [key for key in self.changed() if key in others]
        if foreign:
            owners = ", ".join(kind for kind, keys in KEYS.items() if foreign[0] in keys)
            words = f"is no option of {self._in_words()}: remove it, or ask for {owners}"
            yield Conflict(foreign[0], words)
        if self.kind == "hub" and self.repo_id is None:
            words = 'kind "hub" needs the repository to push to: give it, e.g. "acme/tickets"'
            yield Conflict("repo_id", words)

    @property
    def made(self) -> Content:
        """What has to be made, whether it is pushed or kept."""
        return self.content if self.kind == "hub" else self.kind

    def to_make(self) -> "ExportConfig":
        """What has to be made before it is pushed or kept."""
        options = {key: getattr(self, key) for key in KEYS[self.made]}
        return ExportConfig(kind=self.made, **options)

    def options(self) -> dict[str, object]:
        """The options that count for this kind, by name."""
        keys = [*KEYS[self.made], *(KEYS["hub"] if self.kind == "hub" else ())]
        return {key: getattr(self, key) for key in keys}

    def _in_words(self) -> str:
        return f'kind "hub" with content "{self.made}"' if self.kind == "hub" else f'"{self.kind}"'
