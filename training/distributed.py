"""The processes that train one model together: which of them this is, and what they agree on.

One process alone is a crew too, whose collectives cost nothing. What is agreed on between steps
goes through gloo and the host's memory, so that no GPU is waited for. torch is loaded by those who
have company.

    rank     this process among all of them; 0 is the first, which alone speaks and keeps
    size     all of them
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from training.compiled_ops import load_compiled_ops
from training.config import TrainingConfig
from training.failures import RunError, invalid_spec
from training.run_directory import complete_folder

TIMEOUT = timedelta(days=2)
"""The first process may be busy alone for long; whoever watches the run says when that is hung."""


@dataclass(frozen=True)
class Crew:
    """This process and its company."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over all processes, exact for whole numbers below 2**53."""
        return self._reduced(numbers, "SUM")

    def highest(self, number: int) -> int:
        """The highest of all processes' numbers."""
        return int(self._reduced((number,), "MAX")[0])

    def wait(self) -> None:
        """Return when all processes have come here."""
        self._reduced((0,), "SUM")

    def _reduced(self, numbers: tuple[float, ...], operation: str) -> list[float]:
        if self.size == 1:
            return list(numbers)
        import torch.distributed as dist  # noqa: PLC0415 - takes seconds
        from torch import float64, tensor  # noqa: PLC0415

        shared = tensor(numbers, dtype=float64)
        dist.all_reduce(shared, op=getattr(dist.ReduceOp, operation))
        return [float(number) for number in shared.tolist()]

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """A block that the first process goes through first: the others find what it made."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    @contextmanager
    def complete_folder(
        self, target: Path, *, step: int | None = None, attempt: int | None = None
    ) -> Iterator[Path]:
        """As `run_directory.complete_folder`, filled by all processes together."""
        if not self.is_first:
            self.wait()
            yield target.with_name(f".{target.name}.tmp")
            self.wait()
            return
        with complete_folder(target, step=step, attempt=attempt) as folder:
            self.wait()
            yield folder
            self.wait()


def was_launched() -> bool:
    """Whether this process was made as one of those that train together."""
    return "RANK" in os.environ


def crew_of_process() -> Crew:
    """As torchrun's variables say; alone without them."""
    return Crew(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def meet(crew: Crew, config: TrainingConfig) -> None:
    """Meet the other processes of the run, before the model is loaded.

    Raises:
        RunError: There are not as many as the run asks for, or a library is missing.
    """
    if not was_launched():
        return
    import torch  # noqa: PLC0415 - takes seconds

    asked = config.parallelism.count
    if crew.size != asked:
        raise invalid_spec(
            f"{crew.size} processes were started for a run of {asked}.",
            param="training.parallelism.num_processes",
            remedy="Leave it to `python -m training run` to start them.",
        )
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    if config.parallelism.uses_deepspeed:
        deepspeed = _deepspeed()
        load_compiled_ops(offloads_optimizer="optimizer" in config.parallelism.offloads)
        # It takes over the group that is there; without one, ZeRO-3 believes to be alone.
        deepspeed.init_distributed("nccl" if has_gpu else "gloo", auto_mpi_discovery=False)


def _deepspeed() -> Any:  # noqa: ANN401 - an optional package
    # On a host with a GPU and no CUDA compiler it fails to be imported: it asks for that compiler's
    # version, for kernels that are compiled when they are first used, and never are here.
    os.environ.setdefault("DS_IGNORE_CUDA_DETECTION", "1")
    try:
        import deepspeed  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise RunError(
            "missing_package",
            "DeepSpeed is not installed on this worker.",
            fault="infrastructure",
            param="training.parallelism.strategy",
            remedy="Install it there (pip install 'tunesmith[deepspeed]'), or choose another one.",
        ) from error
    return deepspeed


def local_rank() -> int:
    """Which of the visible GPUs is this process's own."""
    return int(os.environ.get("LOCAL_RANK", "0"))
