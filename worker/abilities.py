"""What this host can do beyond running a process, for jobs that cannot do without it."""

import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from training.optimizers import PACKAGES

_PACKAGES = PACKAGES | {"deepspeed", "flash_attn", "liger_kernel"}


def abilities(devices: Sequence[str]) -> frozenset[str]:
    """In the words of `TrainingConfig.requires`; packages are looked for, and not imported."""
    found = {name for name in _PACKAGES if find_spec(name) is not None}
    found |= {"cuda"} if devices else set()
    found |= {"c++"} if shutil.which("c++") else set()
    return frozenset(found)
