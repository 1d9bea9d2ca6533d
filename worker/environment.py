"""The whole environment of a process of a run: an allow-list, so that no secret slips in."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import training.run_directory
from jobs.service.claims import TrainAssignment
from jobs.settings import Settings
from worker.processes import TAG

_INHERITED = (
    *("LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "TZ"),
    # The order decides which GPU a number is; the others are what a host's administrator has set.
    *("CUDA_DEVICE_ORDER", "CUDA_HOME", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"),
    "NCCL_SOCKET_IFNAME",
)
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE")
_HUB_INHERITED = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", *_PROXIES)
_SOURCES = str(Path(training.run_directory.__file__).parents[1])


def training_environment(tag: str, home: Path, gpus: tuple[str, ...]) -> dict[str, str]:
    """For the training process: it knows of no database, no broker and no network.

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


def extensions_environment(settings: Settings) -> dict[str, str]:
    """Where DeepSpeed keeps what it compiles, which fits no other versions than it was made by."""
    made_by = "-".join(f"{name}-{version(name)}" for name in ("torch", "deepspeed"))
    folder = settings.extensions_folder / f"{sys.implementation.cache_tag}-{made_by}"
    return {"TORCH_EXTENSIONS_DIR": str(folder)}


def trackers_environment(settings: Settings, assignment: TrainAssignment) -> dict[str, str]:
    """Beside the rest, for the training process of a job: keys of its trackers, and the way."""
    found = {
        **(_wandb(settings) if assignment.wandb else {}),
        **(_mlflow(settings) if assignment.mlflow else {}),
    }
    if not found:
        return {}
    return found | {name: os.environ[name] for name in _PROXIES if name in os.environ}


def _wandb(settings: Settings) -> dict[str, str]:
    if settings.wandb_api_key is None:
        return {}
    url = {"WANDB_BASE_URL": settings.wandb_base_url} if settings.wandb_base_url else {}
    return {**url, "WANDB_API_KEY": settings.wandb_api_key}


def _mlflow(settings: Settings) -> dict[str, str]:
    if settings.mlflow_tracking_uri is None:
        return {}
    values = {
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "MLFLOW_TRACKING_TOKEN": settings.mlflow_tracking_token,
        "MLFLOW_TRACKING_USERNAME": settings.mlflow_tracking_username,
        "MLFLOW_TRACKING_PASSWORD": settings.mlflow_tracking_password,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": os.environ.get("SSL_CERT_FILE"),
    }
    return {name: value for name, value in values.items() if value}


def hub_environment(tag: str, home: Path, hub_token: str | None) -> dict[str, str]:
    """For a process that fetches a base model or pushes an export: only such have a hub's token."""
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
