"""Which GPUs this host has, found without loading torch."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

from jobs.settings import Settings

_PROC = Path("/proc/driver/nvidia/gpus")
_TIMEOUT_SECONDS = 20
_log = logging.getLogger(__name__)


def devices_to_offer(settings: Settings) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this worker offers."""
    limit = settings.worker_gpus
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name for name in visible.split(",") if name and name != "-1")[:limit]
    return tuple(str(index) for index in range(_count() if limit is None else limit))


def _count() -> int:
    if (program := shutil.which("nvidia-smi")) is not None:
        try:
            listing = subprocess.run(  # noqa: S603 - a fixed command
                [program, "-L"],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("nvidia-smi does not answer: %s", error)
        else:
            return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return len(list(_PROC.iterdir())) if _PROC.is_dir() else 0
