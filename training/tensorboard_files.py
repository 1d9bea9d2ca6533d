"""Event files of TensorBoard in a folder of the run."""

from pathlib import Path
from typing import Any

from training.ledger import Numbers
from training.tracker import grouped


class TensorBoardFiles:
    """Written from the first numbers on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, step: int, numbers: Numbers) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes a second

            # Earlier attempts' points from this step on are void.
            self._writer = SummaryWriter(self._folder, purge_step=step)
        for name, value in grouped(numbers).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - the interface's
        if self._writer is not None:
            self._writer.close()
