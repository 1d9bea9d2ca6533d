"""The whole environment of a process of a run: an allow-list, so that no secret slips in."""

import os
from pathlib import Path

import training.run_directory
from worker.processes import TAG

_INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "TZ")
_HUB_INHERITED = ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")
_SOURCES = str(Path(training.run_directory.__file__).parents[1])


def training_environment(tag: str, home: Path, gpus: tuple[str, ...]) -> dict[str, str]:
    """For the training process: it reaches neither the database, the broker nor the network.

    Args:
        tag: What marks the processes of the run.
        home: A folder of the run, for whatever a library wants to keep.
        gpus: The devices it may use; none hides them all.
    """
    return {
        **_base(tag, home),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def fetching_environment(tag: str, home: Path, hub_token: str | None) -> dict[str, str]:
    """For the process that fetches a base model: the only one that has the hub's token."""
    inherited = {name: os.environ[name] for name in _HUB_INHERITED if name in os.environ}
    token = {"HF_TOKEN": hub_token} if hub_token else {}
    return {**_base(tag, home), **inherited, **token, "CUDA_VISIBLE_DEVICES": ""}


def _base(tag: str, home: Path) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        TAG: tag,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": _SOURCES,
        "PYTHONUNBUFFERED": "1",
    }
