"""A model folder as one GGUF file, for llama.cpp and what is built on it.

Written tensor by tensor, so that memory stays flat; then opened again by transformers, and asked
the same as the folder. Which architectures there are is the table `ARCHITECTURES`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType as FileType
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from training.export_config import OutType
from training.failures import RunError, invalid_spec
from training.gguf_tokenizer import add_special_ids, read_tokenizer
from training.model import load_plain_model
from training.probing import distance, logits_of, probe_of, require_same_answers
from training.reporting import Reporter


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows models of a class of transformers.

    Attributes:
        id: Of the `gguf` package.
        is_interleaved: Whether rotary positions turn neighbouring numbers of a head, for which
            the rows of q and k change places.
    """

    id: gguf.MODEL_ARCH
    is_interleaved: bool


@dataclass(frozen=True)
class Precision:
    """What the matrices of a file are kept in; vectors are always float32.

    Attributes:
        merged: The precision of the model that the file is made of, to be rounded to only once.
        loaded: What transformers reads the file back in, to lose nothing of it.
        tolerance: How far the file may answer from that model, its weights rounded as in the file.
    """

    kind: Kind
    file_type: FileType
    merged: str
    loaded: torch.dtype
    tolerance: float


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "LlamaForCausalLM": Architecture(gguf.MODEL_ARCH.LLAMA, is_interleaved=True),
        "MistralForCausalLM": Architecture(gguf.MODEL_ARCH.LLAMA, is_interleaved=True),
        "Qwen2ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN2, is_interleaved=False),
        "Qwen3ForCausalLM": Architecture(gguf.MODEL_ARCH.QWEN3, is_interleaved=False),
    }
)
PRECISIONS: Mapping[OutType, Precision] = MappingProxyType(
    {
        "f32": Precision(Kind.F32, FileType.ALL_F32, "float32", torch.float32, 1e-4),
        "f16": Precision(Kind.F16, FileType.MOSTLY_F16, "float16", torch.float16, 1e-3),
        "bf16": Precision(Kind.BF16, FileType.MOSTLY_BF16, "bfloat16", torch.bfloat16, 1e-3),
        "q8_0": Precision(Kind.Q8_0, FileType.MOSTLY_Q8_0, "auto", torch.float32, 1e-4),
    }
)
_ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True)
class _Named:
    """A tensor under its name in the file."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    source: Path
    key: str


def check_architecture(folder: Path) -> None:
    """Pass for a model that a GGUF file can be made of, before anything is merged.

    Raises:
        RunError: Naming its architecture, or what of it llama.cpp does not know.
    """
    config = _config(folder)
    _architecture(config)
    _rope_factors(config)


def write_gguf(
    folder: Path, target: Path, outtype: OutType, *, name: str, stop_ids: frozenset[int]
) -> None:
    """Write the model and the tokenizer in `folder` to the file `target`.

    Raises:
        RunError: llama.cpp does not know such a model or tokenizer.
    """
    config = _config(folder)
    architecture, precision = _architecture(config), PRECISIONS[outtype]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture.id])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(precision.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    read_tokenizer(tokenizer, config.vocab_size).add_to(writer)
    add_special_ids(writer, tokenizer, stop_ids)
    try:
        _write_tensors(writer, folder, config, architecture, precision.kind)
    finally:
        writer.close()


def check_gguf(
    target: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, outtype: OutType
) -> float:
    """Open a written file again and compare it with the folder it was made of.

    Returns:
        How far its answers lie from the folder's.

    Raises:
        RunError: Its answers are not those of the folder with its weights so rounded, or its
            tokens differ.
    """
    probe, precision = probe_of(tokenizer), PRECISIONS[outtype]
    model = load_plain_model(folder, "auto")
    merged_TV = rounded_TV = logits_of(model, probe)
    if precision.merged == "auto":  # else it was merged in what the file keeps
        _round_weights(model, precision.kind)
        rounded_TV = logits_of(model, probe)
    del model  # the memory of one model is enough
    found = AutoTokenizer.from_pretrained(target.parent, gguf_file=target.name)
    _require_same_tokens(found, tokenizer)
    found_TV = logits_of(_read_back(target, _config(folder), precision.loaded), probe)
    require_same_answers(found_TV, rounded_TV, tolerance=precision.tolerance, what="The GGUF file")
    return distance(found_TV, merged_TV)


def _round_weights(model: PreTrainedModel, kind: Kind) -> None:
    """Make the weights what they are when they come back from a file."""
    for parameter in model.parameters():
        kept_in = _kind_of(tuple(parameter.shape), kind)
        blocks = gguf.quantize(parameter.detach().float().numpy(), kept_in)
        parameter.data = torch.from_numpy(gguf.dequantize(blocks, kept_in))


def _read_back(target: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    options: dict[str, Any] = {}
    if not _is_read_whole(config):
        options["config"] = config
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        target.parent,
        gguf_file=target.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
        **options,
    )
    return model


def _is_read_whole(config: Any) -> bool:  # noqa: ANN401
    """Whether transformers finds the shape of the model in the file; llama.cpp always does."""
    biased = getattr(config, "attention_bias", False)
    return _rope_type(config) == "default" and config.model_type != "qwen3" and not biased


def _require_same_tokens(found: PreTrainedTokenizerBase, made: PreTrainedTokenizerBase) -> None:
    there, wanted = found.get_vocab(), made.get_vocab()
    differing = [token for token, position in wanted.items() if there.get(token) != position]
    if differing or found.chat_template != made.chat_template:
        raise RunError(
            "broken_result",
            "The tokenizer of the GGUF file is not the model's: "
            f"{f'{differing[0]!r} is another token' if differing else 'its template differs'}.",
            fault="infrastructure",
            remedy="Please report it with the name of the base model.",
        )


def _config(folder: Path) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    return config


def _architecture(config: PreTrainedConfig) -> Architecture:
    name = (config.architectures or ["unknown"])[0]
    if name not in ARCHITECTURES:
        raise invalid_spec(
            f"No GGUF file is made of a {name}; of these it is: {', '.join(ARCHITECTURES)}.",
            param="kind",
            remedy='Ask for "merged", and convert that with the tools of llama.cpp\'s own.',
        )
    return ARCHITECTURES[name]


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:  # noqa: ANN401 - one class each
    head_dim = _head_dim(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if _rope_type(config) == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        writer.add_sliding_window(config.sliding_window)


def _head_dim(config: Any) -> int:  # noqa: ANN401
    explicit: int | None = getattr(config, "head_dim", None)
    return explicit or int(config.hidden_size // config.num_attention_heads)


def _write_tensors(
    writer: gguf.GGUFWriter,
    folder: Path,
    config: Any,  # noqa: ANN401
    architecture: Architecture,
    kind: Kind,
) -> None:
    """Announce every tensor, then write one after the other."""
    tensors = list(_named_tensors(folder, config, architecture, kind))
    factors = _rope_factors(config)
    for tensor in tensors:
        stored = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        num_bytes = int(np.prod(stored))
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), num_bytes, raw_dtype=tensor.kind
        )
    if factors is not None:
        writer.add_tensor_info(_ROPE_FREQS, factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        with safe_open(tensor.source, framework="pt") as file:
            values = file.get_tensor(tensor.key).float()
        if architecture.is_interleaved:
            values = _interleaved(tensor.name, values, config)
        writer.write_tensor_data(gguf.quantize(values.numpy(), tensor.kind))
    if factors is not None:
        writer.write_tensor_data(factors)


def _named_tensors(
    folder: Path,
    config: Any,  # noqa: ANN401
    architecture: Architecture,
    kind: Kind,
) -> Iterator[_Named]:
    names = gguf.get_tensor_name_map(architecture.id, config.num_hidden_layers)
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dict
                name = names.get_name(key, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise invalid_spec(
                        f"llama.cpp has no place for the tensor {key}.",
                        param="kind",
                        remedy='Ask for "merged".',
                    )
                shape = tuple(file.get_slice(key).get_shape())
                yield _Named(name, shape, _kind_of(shape, kind), shard, key)


def _kind_of(shape: tuple[int, ...], kind: Kind) -> Kind:
    """What a tensor is kept in: rows that blocks do not divide in float16, vectors in float32."""
    if len(shape) == 1:
        return Kind.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else Kind.F16


def _interleaved(name: str, values: Tensor, config: Any) -> Tensor:  # noqa: ANN401
    """Rows of q and k in the order in which llama.cpp turns them: halves become neighbours."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    num_heads = heads.get(name.split(".")[-2])
    if num_heads is None:
        return values
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape).contiguous()


def _rope_factors(config: Any) -> NDArray[np.float32] | None:  # noqa: ANN401
    """What each rotary frequency is divided by; None where none is, or all by the same.

    Raises:
        RunError: Positions are stretched in a way that a file cannot say.
    """
    kind = _rope_type(config)
    if kind in {"default", "linear"}:
        return None
    if kind != "llama3":
        raise invalid_spec(
            f"No GGUF file is made of a model whose positions are stretched by {kind!r}.",
            param="kind",
            remedy='Ask for "merged", and convert that with the tools of llama.cpp\'s own.',
        )
    stretched, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    theta, head_dim = config.rope_parameters["rope_theta"], _head_dim(config)
    plain = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    factors: NDArray[np.float32] = (plain / stretched.float()).numpy()
    return factors


def _rope_type(config: Any) -> str:  # noqa: ANN401
    return str(config.rope_parameters.get("rope_type", "default"))


def check_and_tell(
    target: Path,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    outtype: OutType,
    reporter: Reporter,
) -> None:
    """`check_gguf`, and what it found in an event."""
    reporter.enter("checking")
    apart = check_gguf(target, folder, tokenizer, outtype)
    reporter.tell(
        f"The GGUF file in {outtype} answers within {apart:.2%} of the merged model.",
        outtype=outtype,
        distance=apart,
    )
