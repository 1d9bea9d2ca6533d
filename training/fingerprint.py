"""What a prepared data file depends on, as one hash: whatever can change a token is in it.

A key of the configuration counts unless it is listed as one that only chooses among documents, so
that a new key cannot be forgotten. Code counts by its bytes, libraries by their versions.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.data_config import DataConfig
from training.data_files import container_of_file
from training.run_spec import DatasetSource

_CHOOSING = frozenset(
    {"block_size", "eval_split", "max_dropped", "max_eval_rows", "max_train_rows", "packing"}
)
"""Keys that decide which of the documents are used, and how they are put into batches."""

_LIBRARIES = ("jinja2", "numpy", "orjson", "pyarrow", "tokenizers", "transformers")
_CODE = Path(__file__).parent


def fingerprint(source: DatasetSource, config: DataConfig, traits: Mapping[str, Any]) -> str:
    """A name for the documents of a file.

    Args:
        source: The file; its bytes, what they are read as and its format count, its folder and
            its weight do not.
        config: Resolved, so that `max_length` is a number.
        traits: All that the encoder depends on: values that JSON can write.
    """
    with Path(source.path).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    everything = {
        "content": content,
        "container": container_of_file(Path(source.path)),
        "format": source.format,
        "config": config.model_dump(mode="json", exclude=set(_CHOOSING)),
        "encoder": traits,
        "software": _software(),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


@cache
def _software() -> dict[str, str]:
    """Versions, and a hash of our own code."""
    code = hashlib.sha256()
    for path in sorted(_CODE.glob("*.py")):
        code.update(hashlib.sha256(path.read_bytes()).digest())
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"tunesmith": code.hexdigest(), "python": platform.python_version(), **libraries}
