"""What a training run is told to do: frozen, checked, and free of torch.

The API, the CLI and the trainer all read these classes, so the API refuses exactly what the
trainer would refuse. Keys are spelled as in transformers' `TrainingArguments` and PEFT's
configs, so their documentation applies; older spellings are translated by `training.spellings`.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from training.spellings import canonical

FORMAT_NAMES = ("messages", "instruct", "prompt_completion")
FormatName = Literal["messages", "instruct", "prompt_completion"]
DType = Literal["bfloat16", "float16", "float32"]

DEFAULT_MAX_LENGTH = 2048
LORA_LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 2e-5


def _plain_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("must not contain a lone surrogate")
    return value


Text = Annotated[str, AfterValidator(_plain_text)]
"""A string that every database, file and tokenizer can hold."""


class Section(BaseModel):
    """A frozen part of a configuration that refuses unknown keys, NaN and infinity.

    Strict: nothing is taken for something else (`"8"` or `true` for a number, 1 for `true`), but
    for an integer where a float is wanted. A slip is told before a GPU is used.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), strict=True
    )


class DataConfig(Section):
    """How rows become token sequences, and which of their tokens take loss."""

    format: FormatName | None = Field(None, description="None: as detected from the file.")
    template: Literal["auto", "chatml", "alpaca"] = Field(
        "auto", description="auto: the model's own chat template."
    )
    max_length: Annotated[int, Field(ge=8)] | None = Field(
        None, description=f"Tokens of a row; None: {DEFAULT_MAX_LENGTH}, or the model's context."
    )
    overlong: Literal["drop", "truncate_end"] = "drop"
    eval_split: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Share of the training rows that is held out when no file is given."
    )
    train_on: Literal["assistant", "last_assistant", "everything"] = "assistant"
    packing: bool = Field(False, description="Several rows in one block, kept apart by attention.")


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


class ModelConfig(Section):
    """How the base model is loaded."""

    dtype: DType = "bfloat16"
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    quantization: QuantizationConfig | None = None


class AdapterConfig(Section):
    """LoRA (arXiv:2106.09685), or full fine-tuning, which has to be asked for."""

    type: Literal["lora", "none"] = "lora"
    r: PositiveInt = Field(16, le=4096)
    lora_alpha: PositiveFloat = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] = (
        "all-linear"
    )
    modules_to_save: list[Text] = []
    variant: None = None

    @model_validator(mode="after")
    def _no_lora_key_without_lora(self) -> Self:
        # Compared with the defaults, so that a configuration can be written out and read again.
        unused = sorted(
            name
            for name in self.model_fields_set - {"type"}
            if getattr(self, name) != type(self).model_fields[name].default
        )
        if self.type == "none" and unused:
            raise ValueError(
                f'type "none" trains every weight and has no {", ".join(unused)}: '
                'remove them, or set type to "lora"'
            )
        return self


SCHEDULERS = (
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
)


class OptimizationConfig(Section):
    """Steps, batches, optimiser and schedule."""

    num_train_epochs: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="None: chosen from the number of rows; see `automatic_epochs`."
    )
    max_steps: PositiveInt | None = Field(None, description="Overrides the epochs.")
    per_device_train_batch_size: PositiveInt = 8
    per_device_eval_batch_size: PositiveInt = 8
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat | None = Field(
        None, description=f"None: {LORA_LEARNING_RATE} for LoRA, {FULL_LEARNING_RATE} for full."
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
    ] = "cosine"
    warmup_steps: NonNegativeFloat = Field(
        0.03, description="A share of all steps below 1, a number of steps from 1 on."
    )
    optim: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"] = "adamw_torch"
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    gradient_checkpointing: bool = True
    torch_compile: bool = False

    @model_validator(mode="after")
    def _warmup_is_a_share_or_a_count(self) -> Self:
        if self.warmup_steps >= 1 and not float(self.warmup_steps).is_integer():
            raise ValueError("warmup_steps is a share below 1 or a whole number of steps")
        return self


class ParallelismConfig(Section):
    """How many processes train one model, and how they share it."""

    # No Literal: to Python, and so to pydantic, `true` equals 1.
    num_processes: Annotated[int, Field(ge=1, le=1)] = 1
    strategy: Literal["none"] = "none"


class CheckpointsConfig(Section):
    """When the state is saved so that a run can be resumed, and how many are kept."""

    save_steps: PositiveInt = 100
    keep: PositiveInt = 3


class EvaluationConfig(Section):
    """What is measured on held-out rows, and when it ends the run."""

    eval_steps: PositiveInt = 100
    early_stopping_patience: PositiveInt | None = Field(
        None, description="Evaluations without a better loss after which training stops."
    )
    sample_prompts: Annotated[list[Text], Field(max_length=8)] = Field(
        default=[], description="Prompts answered at each evaluation, to read along."
    )
    sample_max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 64


class ReportingConfig(Section):
    """How often metrics are sent, and to which trackers beside the job's own events."""

    logging_steps: PositiveInt = 10
    report_to: list[Literal["tensorboard"]] = ["tensorboard"]


class TrainingConfig(Section):
    """Everything that training itself decides; see `docs/job.md` for each key."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    parallelism: ParallelismConfig = ParallelismConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    reporting: ReportingConfig = ReportingConfig()

    @model_validator(mode="before")
    @classmethod
    def _canonical_spellings(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
        return canonical(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _quantized_weights_need_an_adapter(self) -> Self:
        if self.adapter.type == "none" and self.model.quantization is not None:
            raise ValueError(
                'quantized weights cannot be trained: set adapter.type to "lora", '
                "or remove model.quantization"
            )
        return self

    @property
    def requires(self) -> frozenset[str]:
        """What the host of a run must offer; `cuda` is the only such thing so far."""
        needs_cuda = (
            self.model.dtype == "float16" or self.model.attn_implementation == "flash_attention_2"
        )
        return frozenset({"cuda"} if needs_cuda else ())

    @property
    def effective_batch_size(self) -> int:
        """Rows (blocks, when packed) that one optimiser step sees."""
        return (
            self.optimization.per_device_train_batch_size
            * self.optimization.gradient_accumulation_steps
            * self.parallelism.num_processes
        )


def automatic_epochs(num_rows: int) -> int:
    """The number of epochs for a data set whose owner did not choose one.

    Three, more for less than 34 rows (so that about 100 rows are seen, 25 epochs at most), fewer
    above 8,333 rows (so that about 25,000 are seen).
    """
    if num_rows * 3 < 100:
        return max(3, min(25, math.ceil(100 / max(num_rows, 1))))
    return 3 if num_rows * 3 <= 25_000 else max(1, 25_000 // num_rows)


def resolved(config: TrainingConfig, *, num_rows: int, context_length: int) -> TrainingConfig:
    """`config` with every value that was left to us filled in.

    Args:
        config: As it was asked for.
        num_rows: Rows of the training files.
        context_length: Positions of the base model, in tokens.
    """
    optimization = config.optimization
    default_rate = LORA_LEARNING_RATE if config.adapter.type == "lora" else FULL_LEARNING_RATE
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={
                    "max_length": config.data.max_length or min(DEFAULT_MAX_LENGTH, context_length)
                }
            ),
            "optimization": optimization.model_copy(
                update={
                    "num_train_epochs": optimization.num_train_epochs
                    or float(automatic_epochs(num_rows)),
                    "learning_rate": optimization.learning_rate or default_rate,
                }
            ),
        }
    )


class DatasetSource(Section):
    """A data file on this machine."""

    path: Text
    format: FormatName
    weight: PositiveFloat = 1.0


class RunSpec(Section):
    """What the training process reads: a configuration with every name resolved to a local path."""

    training: TrainingConfig
    model_path: Text
    base_model: Text = Field(description="The catalogue's name of the model, for the card.")
    training_files: Annotated[list[DatasetSource], Field(min_length=1)]
    validation_files: list[DatasetSource] = []
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    name: Text = Field("adapter", description="What the result is called, for the card.")
    attempt: PositiveInt = 1
