"""How the base model is loaded. Light."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from training.section import PLAIN, Conflict, Section

DType = Literal["bfloat16", "float16", "float32"]


class QuantizationConfig(Section):
    """bitsandbytes quantisation of the frozen base weights (QLoRA, arXiv:2305.14314)."""

    bits: Literal[4, 8]
    type: Literal["nf4", "fp4"] | None = Field(None, description="4 bits only; None: nf4.")
    double_quant: bool | None = Field(None, description="4 bits only; None: true.")

    def _conflicts(self) -> Iterator[Conflict]:
        if self.bits == 8 and (self.type or self.double_quant):
            yield Conflict(
                "type" if self.type else "double_quant",
                "belongs to 4-bit quantisation: remove it, or set bits to 4",
            )


Token = Annotated[str, Field(min_length=1, max_length=256), PLAIN]


@with_config(ConfigDict(extra="forbid", strict=True))
class SpecialTokens(TypedDict, total=False):
    """Tokens of the tokenizer's own, by what they are for, as transformers names it."""

    bos_token: Token
    eos_token: Token
    unk_token: Token
    sep_token: Token
    pad_token: Token
    cls_token: Token
    mask_token: Token
    extra_special_tokens: list[Token]


class ModelConfig(Section):
    """How the base model is loaded."""

    dtype: DType = "bfloat16"
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    quantization: QuantizationConfig | None = None
    use_liger_kernel: bool = Field(
        False, description="Fused kernels for norms, rotations and gates; needs a GPU."
    )
    add_tokens: Annotated[list[Token], Field(max_length=4096)] = Field(
        default=[], description="Tokens to add to the vocabulary, whose rows are trained."
    )
    add_special_tokens: SpecialTokens = Field(
        default=SpecialTokens(), description="The same, with what each of them is for."
    )

    def _conflicts(self) -> Iterator[Conflict]:
        if self.attn_implementation == "flash_attention_2" and self.dtype == "float32":
            yield Conflict(
                "attn_implementation",
                'attn_implementation "flash_attention_2" computes in 16 bits: set dtype to '
                '"bfloat16" or "float16", or attn_implementation to "auto"',
            )

    @property
    def adds_tokens(self) -> bool:
        """Whether the vocabulary may grow: some of them may be there already."""
        return bool(self.add_tokens or self.add_special_tokens)
