"""The base model and its tokenizer, loaded from a local folder: precision, quantisation, attention.

No network, no code from the folder, no pickled weights.
"""

import importlib.util
import logging
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.added_tokens import Vocabulary, extended
from training.config import TrainingConfig
from training.distributed import local_rank
from training.failures import RunError, invalid_spec, shortage
from training.inspection import check_model_folder
from training.liger import refused
from training.model_config import ModelConfig, QuantizationConfig
from training.parallelism_config import ParallelismConfig

log = logging.getLogger(__name__)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a padding token.

    Padding may be the end of sequence itself: it is masked by place, never by token.

    Raises:
        RunError: It cannot be read, tells no offsets, or has no end of sequence.
    """
    return load_vocabulary(folder, ModelConfig()).tokenizer


def load_vocabulary(folder: Path, config: ModelConfig) -> Vocabulary:
    """The tokenizer of a model folder with the tokens that a job adds to it.

    Raises:
        RunError: As for `load_tokenizer`, which takes it as it is.
    """
    check_model_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable("tokenizer", error) from error
    if not tokenizer.is_fast:
        raise _not_loadable("tokenizer", "it tells no offsets; a tokenizer.json is needed")
    vocabulary = extended(tokenizer, config)
    if tokenizer.eos_token_id is None:
        raise invalid_spec(
            "The tokenizer has no end-of-sequence token.",
            param="training.model.add_special_tokens",
            remedy='Name one, e.g. {"eos_token": "</s>"}: it is added where it is not known.',
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return vocabulary


def load_model(folder: Path, config: TrainingConfig) -> PreTrainedModel:
    """The base model, in evaluation mode, on the GPU if there is one.

    A frozen base is held in `model.dtype`, or quantised. A base that is itself trained is held in
    float32 whatever `model.dtype` says, which then is the precision of the computation: steps of
    ordinary size are lost when added to 16-bit weights.

    Raises:
        RunError: This machine or this model does not allow what is asked for.
    """
    check_model_folder(folder)
    check_device(config.model)
    dtype = torch.float32 if config.adapter.type == "none" else computation_dtype(config.model)
    options: dict[str, Any] = {"attn_implementation": attention(config.model)}
    if config.model.quantization is not None:
        options["quantization_config"] = _bitsandbytes(config.model.quantization, dtype)
    model = _from_pretrained(folder, dtype=dtype, **_placement(config.parallelism), **options)
    model.config.use_cache = False
    _keep_layout(model)
    return model


def _keep_layout(model: PreTrainedModel) -> None:
    """Some CPUs have a kernel that needs 4-bit weights in another order, and knows no gradients.

    bitsandbytes puts them into it for good as soon as a model is evaluated.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast("Any", module).support_avx512bf16_for_cpu = False


def load_plain_model(folder: Path, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """A model as it lies in its folder, on the CPU: nothing quantised, nothing made for training.

    Args:
        folder: Holds the model.
        dtype: Of the weights; "auto": as they are stored.

    Raises:
        RunError: It cannot be read.
    """
    check_model_folder(folder)
    return _from_pretrained(folder, dtype=dtype)


def _from_pretrained(folder: Path, **options: Any) -> PreTrainedModel:  # noqa: ANN401
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        return loader.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_loadable("model", error) from error


def computation_dtype(config: ModelConfig) -> torch.dtype:
    return getattr(torch, config.dtype)  # type: ignore[no-any-return]


def attention(config: ModelConfig) -> str | None:
    """The attention to ask transformers for; None leaves the choice (sdpa, else eager) to it."""
    if config.attn_implementation != "auto":
        return config.attn_implementation
    fits = config.dtype != "float32" and torch.cuda.is_available()
    installed = importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if fits and installed else None


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the language model in a model folder.

    Raises:
        RunError: It cannot be read.
    """
    check_model_folder(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable("configuration", error) from error
    return cast("PreTrainedConfig", config.get_text_config())


def slow_precision(config: ModelConfig) -> str | None:
    """A word of advice where this machine computes the chosen precision by detours."""
    if config.dtype != "bfloat16" or torch.cuda.is_available():
        return None
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return (
        "This CPU has no bfloat16 instructions, so that float32 is many times as fast on it: "
        'set training.model.dtype to "float32".'
    )


def stop_ids(folder: Path, config: PreTrainedConfig) -> set[int]:
    """Tokens at which the model's own settings end a generation."""
    settings: Any = config
    if (folder / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
    ids = settings.eos_token_id
    return set(ids) if isinstance(ids, list) else {ids} - {None}


def _placement(config: ParallelismConfig) -> dict[str, Any]:
    """Where to load a whole model; one that is split goes where its parts are made."""
    if config.splits_the_model:
        return {}
    device = f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"
    return {"device_map": {"": device}}


def check_device(config: ModelConfig) -> None:
    """Refuse what only a GPU can do where there is none.

    Raises:
        RunError: Naming the key; nothing is quietly done otherwise than asked.
    """
    if torch.cuda.is_available():
        return
    if config.dtype == "float16":
        raise invalid_spec(
            "float16 needs a GPU, and this machine has none.",
            param="training.model.dtype",
            remedy='Set training.model.dtype to "bfloat16" or "float32".',
        )
    if config.attn_implementation == "flash_attention_2":
        raise invalid_spec(
            "flash_attention_2 needs a GPU, and this machine has none.",
            param="training.model.attn_implementation",
            remedy='Set training.model.attn_implementation to "auto".',
        )
    if config.use_liger_kernel:
        raise refused("Liger's kernels need a GPU, and this machine has none.")


def _bitsandbytes(config: QuantizationConfig, dtype: torch.dtype) -> BitsAndBytesConfig:
    if config.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=config.type or "nf4",
        bnb_4bit_use_double_quant=config.double_quant is not False,
        bnb_4bit_compute_dtype=dtype,
    )


def _not_loadable(what: str, reason: Exception | str) -> RunError:
    if isinstance(reason, Exception) and (found := shortage(reason)) is not None:
        return RunError.of(found)
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return RunError(
        "model_not_loadable",
        f"The {what} cannot be loaded: {lines[0].rstrip('.')}.",
        fault="infrastructure",
        param="model",
        remedy="Look at the model's files on the worker; what cannot be mended is added anew.",
    )
