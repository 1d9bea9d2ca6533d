"""What DeepSpeed compiles when it is first used: by one process of this machine at a time.

Torch marks a build by a file, which outlives whoever dies while building: all who come after would
wait for ever. Here the kernel keeps the turns, so that a mark is one of the dead.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COMMUNICATION = "ShareMemCommBuilder"
_OPTIMIZER = "CPUAdamBuilder"


def load_compiled_ops(*, offloads_optimizer: bool) -> None:
    """Load what a run will ask for, so that nothing is built later; built anew it takes minutes.

    Args:
        offloads_optimizer: Whether its optimizer works in the host's memory.
    """
    from deepspeed.accelerator import get_accelerator  # noqa: PLC0415 - an optional package
    from deepspeed.ops import __compatible_ops__ as compatible  # noqa: PLC0415

    names = [_COMMUNICATION, *([_OPTIMIZER] if offloads_optimizer else [])]
    builders = (get_accelerator().create_op_builder(name) for name in names)
    with _turn() as folder:
        for builder in builders:
            if builder is not None and compatible.get(builder.NAME, False):
                _load(builder, folder)


def _load(builder: Any, folder: Path) -> None:  # noqa: ANN401 - an optional package
    (folder / builder.name / "lock").unlink(missing_ok=True)
    builder.load()


@contextmanager
def _turn() -> Iterator[Path]:
    """The folder of what is built, while no other process of Tunesmith builds there."""
    from torch.utils.cpp_extension import _get_build_directory  # noqa: PLC0415 - takes seconds

    folder = Path(_get_build_directory("tunesmith", verbose=False))
    with os.fdopen(os.open(folder / "turn", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder.parent
