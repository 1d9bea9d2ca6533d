"""The base model and its tokenizer, loaded from a local folder: precision, quantisation, attention.

No network, no code from the folder, no pickled weights.
"""

import logging
import os
from collections.abc import Collection, Mapping
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
from transformers.models.auto.auto_factory import _get_model_class
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils.import_utils import is_flash_attn_2_available

from training.added_tokens import Vocabulary, extended
from training.config import TrainingConfig
from training.distributed import local_rank
from training.failures import RunError, invalid_spec, shortage
from training.inspection import check_model_folder
from training.liger import refused
from training.model_config import ModelConfig, QuantizationConfig
from training.parallelism_config import ParallelismConfig

log = logging.getLogger(__name__)

_KEPT_WHOLE = {"mamba": ["dt_proj", "lm_head"]}
"""By architecture: layers that stay as they are in a quantised model, whose code reads their
weight itself; the others have theirs from transformers."""


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
    tokenizer = read_tokenizer(folder)
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


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as it lies in its folder.

    Raises:
        RunError: It cannot be read, or tells no offsets.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        is_there = (folder / "tokenizer.json").exists()
        reason = error if is_there else "there is no tokenizer.json, nor what makes one"
        raise _not_loadable("tokenizer", reason) from error
    if not tokenizer.is_fast:
        raise _not_loadable("tokenizer", "it tells no offsets; a tokenizer.json is needed")
    return tokenizer


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
    options: dict[str, Any] = {"attn_implementation": attention(config.model, folder)}
    if config.model.quantization is not None:
        skipped = _KEPT_WHOLE.get(load_config(folder).model_type)
        options["quantization_config"] = _bitsandbytes(config.model.quantization, dtype, skipped)
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
        model: PreTrainedModel = _loader(config).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_loadable("model", error) from error
    return model


def _loader(config: PreTrainedConfig) -> Any:  # noqa: ANN401 - it has two classes
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def computation_dtype(config: ModelConfig) -> torch.dtype:
    return getattr(torch, config.dtype)  # type: ignore[no-any-return]


def attention(config: ModelConfig, folder: Path) -> str | None:
    """The attention to ask transformers for; None leaves the choice (sdpa, else eager) to it."""
    if config.attn_implementation != "auto":
        return config.attn_implementation
    fits = config.dtype != "float32" and _has_flash_attention() and _knows_flash_attention(folder)
    return "flash_attention_2" if fits else None


def _has_flash_attention() -> bool:
    """Whether it is installed, and made for this machine's GPU: it needs Ampere or newer."""
    return is_flash_attn_2_available() and torch.cuda.get_device_capability() >= (8, 0)


def _knows_flash_attention(folder: Path) -> bool:
    config = _whole_config(folder)
    models = _loader(config)._model_mapping
    if type(config) not in models:
        return False
    model: Any = _get_model_class(config, models)  # type: ignore[no-untyped-call]
    return bool(model._supports_flash_attn)


def load_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the language model in a model folder.

    Raises:
        RunError: It cannot be read.
    """
    check_model_folder(folder)
    return _whole_config(folder).get_text_config()


def _whole_config(folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loadable("configuration", error) from error
    return config


def slow_precision(config: ModelConfig) -> str | None:
    """A word of advice where this machine computes the chosen precision by detours."""
    if config.dtype != "bfloat16":
        return None
    if torch.cuda.is_available():
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else _slow_on_gpu()
    return None if torch.ops.mkldnn._is_mkldnn_bf16_supported() else _slow_on_cpu()


def _slow_on_gpu() -> str:
    return (
        "This GPU has no bfloat16 instructions, so that float16 is faster on it: "
        'set training.model.dtype to "float16".'
    )


def _slow_on_cpu() -> str:
    return (
        "This CPU has no bfloat16 instructions, so that float32 is many times as fast on it: "
        'set training.model.dtype to "float32".'
    )


def stop_ids(folder: Path, config: PreTrainedConfig) -> set[int]:
    """Tokens at which the model's own settings end a generation."""
    return _stop_ids(_generation_config(folder, config))


def settings_after(
    folder: Path, config: PreTrainedConfig, ends: Collection[int], roles: Mapping[str, int]
) -> GenerationConfig | None:
    """The model's own settings of generation, as they have to be after training.

    They are not changed in memory: transformers refuses to save what was changed and is not sound
    in all else, which the settings of well-known models are not.

    Args:
        folder: Of the model.
        config: Its own.
        ends: Tokens that end what it says now.
        roles: As in `Vocabulary`.

    Returns:
        None where they need no change.
    """
    settings = _generation_config(folder, config)
    changes: dict[str, Any] = {
        name: token for name, token in roles.items() if getattr(settings, name) != token
    }
    if _stop_ids(settings).issuperset(ends):
        changes.pop("eos_token_id", None)
    else:
        changes["eos_token_id"] = sorted(ends)
    for name, value in changes.items():
        setattr(settings, name, value)
    # Or transformers 4 would go by the model's configuration instead.
    settings._from_model_config = False
    return settings if changes else None


def _generation_config(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    if (folder / GENERATION_CONFIG_NAME).is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(config)


def _stop_ids(settings: GenerationConfig) -> set[int]:
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
        RunError: Naming the key; nothing is quietly done otherwise than asked. Or GPUs that the
            run was given are of no use to torch.
    """
    if torch.cuda.is_available():
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES", "-1") not in {"", "-1"}:
        raise RunError(
            "gpu_unusable",
            "torch cannot use the GPU that this run was given.",
            fault="infrastructure",
            remedy="Look at the run's log and at the worker: its driver may be too old for its "
            "torch, or its torch be made without CUDA.",
        )
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


def _bitsandbytes(
    config: QuantizationConfig, dtype: torch.dtype, skipped: list[str] | None
) -> BitsAndBytesConfig:
    if config.bits == 8:
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_8bit=True, llm_int8_skip_modules=skipped
        )
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        llm_int8_skip_modules=skipped,
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
