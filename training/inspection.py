"""Facts of a model folder without loading its weights, and the refusal of folders that run code.

Weights are looked at through the headers of safetensors files alone. A folder with pickled
weights, or with code of its own, is refused: opening it would run what somebody put there.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from training.facts import ModelFacts
from training.failures import RunError
from training.packages import left_out
from training.targets import LINEAR
from training.weight_names import Weight, grouped

_MAX_HEADER_BYTES = 100 << 20
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
UNLIMITED_POSITIONS = 1 << 20
"""Of a model that has no table of places, but knows how far apart two tokens are, as T5, or what
came before, as Mamba: any number, within reason."""
_CONTEXT_KEYS = (
    *("max_position_embeddings", "max_decoder_position_embeddings", "n_positions"),
    *("max_seq_len", "seq_length", "n_ctx"),
)


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as its file announces it."""

    name: str
    shape: tuple[int, ...]


def inspect_model(folder: Path) -> ModelFacts:
    """What is known of the model in `folder` from its configuration and its files' headers.

    Raises:
        RunError: The folder is not one that can be trained, or not one that is safe to open.
    """
    check_model_folder(folder)
    tensors = _tensors(folder)
    with left_out("bitsandbytes"):  # PEFT imports it if it is there, and it takes longest of all
        from transformers import AutoConfig, PreTrainedConfig  # noqa: PLC0415 - takes seconds

        from training.weights import (  # noqa: PLC0415 - as does this
            barred_names,
            taken_names,
            weights_of,
        )

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(f"config.json cannot be used: {_first_line(error)}") from error
    text_config = config.get_text_config()
    model = _without_weights(config)
    weights = weights_of(model)
    barred = barred_names(config, weights)
    linear = _leaf_names(w for w in weights if w.kind in LINEAR)
    return ModelFacts(
        architecture=(config.architectures or ["unknown"])[0],
        model_type=config.model_type,
        num_parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        context_length=context_length(text_config),
        vocab_size=text_config.vocab_size,
        linear_modules=tuple(name for name in linear if name not in barred),
        module_names=_leaf_names(weights),
        weights=grouped(weights),
        taken_names=tuple(sorted(taken_names(config))),
        barred_names=tuple(sorted(barred)),
        attentions=tuple(_attentions(model)),
        tie_word_embeddings=bool(text_config.tie_word_embeddings),
        has_chat_template=_has_chat_template(folder),
        has_bos_token=_has_bos_token(folder),
        is_encoder_decoder=bool(config.is_encoder_decoder),
        bytes=sum(path.stat().st_size for path in _files(folder)),
        sha256=_identity(folder),
    )


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that is no model, or whose weights or configuration would run code.

    Raises:
        RunError: With the reason, in one sentence.
    """
    if not folder.is_dir():
        raise _unusable(f"there is no folder {folder}", code="model_missing")
    config = _config(folder)
    if _auto_map(config) or _auto_map(_read_json(folder / "tokenizer_config.json")):
        raise _unusable("it asks to run code of its own (auto_map), which is never done")
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    code = [name for name in names if name.endswith(".py")]
    if code:
        raise _unusable(f"it holds code of its own ({code[0]}), which is never run")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = [name for name in names if name.endswith(_PICKLED)]
        found = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
        raise _unusable(f"it has {found}; weights in safetensors files are accepted")
    _shards(folder)


def _unusable(reason: str, *, code: str = "model_not_loadable") -> RunError:
    return RunError(
        code,
        f"The model cannot be used: {reason}.",
        fault="infrastructure",
        param="model",
        remedy="Put a whole model there: config.json, tokenizer.json and safetensors weights.",
    )


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise _unusable("config.json is missing")
    return _read_json(folder / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one if the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise _unusable(f"{path.name} is not JSON") from error
    if not isinstance(value, dict):
        raise _unusable(f"{path.name} is not a JSON object")
    return value


def _auto_map(config: dict[str, Any]) -> bool:
    return "auto_map" in config


def _shards(folder: Path) -> list[Path]:
    """The files that hold the weights; every one of them directly in `folder`."""
    index = _read_json(folder / "model.safetensors.index.json")
    if not index:
        return sorted(folder.glob("*.safetensors"))
    names = sorted(set(index.get("weight_map", {}).values()))
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).name != name:
            raise _unusable(f"its index names a shard outside the folder ({name!r})")
        if not name.endswith(".safetensors"):
            raise _unusable(f"its index names a shard that is not safetensors ({name!r})")
        if not (folder / name).is_file():
            raise _unusable(f"the shard {name} is missing")
    return [folder / name for name in names]


def _tensors(folder: Path) -> list[TensorHeader]:
    return [tensor for shard in _shards(folder) for tensor in read_header(shard)]


def read_header(path: Path) -> list[TensorHeader]:
    """The tensors that a safetensors file announces.

    Raises:
        RunError: The file does not begin with such a header, or is shorter than it says.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise _unusable(f"{path.name} is not a safetensors file")
        try:
            header = json.loads(file.read(length))
            tensors = {name: each for name, each in header.items() if name != "__metadata__"}
            ends = [each["data_offsets"][1] for each in tensors.values()]
            found = [TensorHeader(name, tuple(each["shape"])) for name, each in tensors.items()]
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise _unusable(f"the header of {path.name} is broken") from error
    if path.stat().st_size < 8 + length + max(ends, default=0):
        raise _unusable(f"{path.name} is cut short")
    return found


def _without_weights(config: Any) -> Any:  # noqa: ANN401 - heavy types
    """The model of a configuration, on no device, so that it takes no memory.

    Raises:
        RunError: It is no language model.
    """
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import (  # noqa: PLC0415 - takes seconds
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
    )

    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return loader.from_config(config)  # type: ignore[no-untyped-call]
    except (ValueError, ImportError) as error:
        raise _unusable(
            f"no language model can be made of its config.json: {_first_line(error)}"
        ) from error


def _attentions(model: Any) -> Iterator[str]:  # noqa: ANN401 - as above
    yield "eager"
    if model._supports_sdpa:
        yield "sdpa"
    if model._supports_flash_attn:
        yield "flash_attention_2"


def _leaf_names(weights: Iterable[Weight]) -> tuple[str, ...]:
    return tuple(sorted({weight.module.rpartition(".")[2] for weight in weights} - {""}))


def context_length(config: Any) -> int:  # noqa: ANN401 - each architecture has its own class
    """Positions of a model, in tokens, from its text configuration."""
    if hasattr(config, "relative_attention_num_buckets"):
        return UNLIMITED_POSITIONS
    found = (getattr(config, key, None) for key in _CONTEXT_KEYS)
    limits = (value for value in found if isinstance(value, int) and value > 0)
    return next(limits, UNLIMITED_POSITIONS)


def _has_bos_token(folder: Path) -> bool | None:
    """As a file says; a tokenizer of which none says anything may have one by its kind."""
    said = {
        **_read_json(folder / "special_tokens_map.json"),
        **_read_json(folder / "tokenizer_config.json"),
    }
    return said["bos_token"] is not None if "bos_token" in said else None


def _has_chat_template(folder: Path) -> bool:
    in_config = _read_json(folder / "tokenizer_config.json").get("chat_template")
    return (folder / "chat_template.jinja").is_file() or bool(in_config)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _identity(folder: Path) -> str:
    """The hash over every file's path below `folder` and the hash of its content."""
    identity = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        identity.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return identity.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "unknown"
