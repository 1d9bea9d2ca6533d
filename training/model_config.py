"""How the base model is loaded. Light."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator, with_config
from typing_extensions import TypedDict

from training.section import Section, Text

DType = Literal["bfloat16", "float16", "float32"]


class QuantizationConfig(Section):
    """bitsandbytes quantisation of the frozen base weights (QLoRA, arXiv:2305.14314)."""

    bits: Literal[4, 8]
    type: Literal["nf4", "fp4"] | None = Field(None, description="4 bits only; None: nf4.")
    double_quant: bool | None = Field(None, description="4 bits only; None: true.")

    @model_validator(mode="after")
    def _four_bit_options(self) -> Self:
        if self.bits == 8 and (self.type or self.double_quant):
            raise ValueError(
                "`type` and `double_quant` belong to 4-bit quantisation: "
                "remove them, or set `bits` to 4"
            )
        return self


Token = Annotated[Text, Field(min_length=1, max_length=256)]


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
