"""Starts the processes of one run through torchrun's agent, and says how the run ended.

Every process is `python -m training run DIR` again, with torchrun's variables in its environment.
The first of them tells of the run; how it ended for each is put into a file, and the last word is
chosen here once all are gone: only then is it known who failed first, and who because of that.
A TERM is passed on to all; when they end is theirs to agree on, and the worker's to limit.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol
from uuid import uuid4

from training.events import Finished
from training.failures import INTERNAL_ERROR, PROCESS_LOST
from training.run_directory import RunDirectory, remove_folder, write_atomically

_LOOPBACK = "127.0.0.1"
_GRACE_SECONDS = 15
"""For those that are left when one has failed."""
_AT_ONCE_SECONDS = 3
_PROGRAM = ("-P", "-m", "training", "run")
_VAGUE = (INTERNAL_ERROR, PROCESS_LOST)


class _Exit(Protocol):
    """How torchrun says that a process has failed."""

    exitcode: int
    timestamp: int


def launch(
    directory: RunDirectory, num_processes: int, program: Sequence[str] = _PROGRAM
) -> Finished | int:
    """Run `program` with the run directory in `num_processes` processes, all to their end.

    Args:
        directory: The run's.
        num_processes: On this host, one per GPU where there are GPUs.
        program: Arguments of Python.

    Returns:
        The last word of the run; or, if none was said, the exit code of the process that ended it,
        negative for a signal.
    """
    from torch.distributed.elastic.multiprocessing.errors import (  # noqa: PLC0415 - loads torch
        ChildFailedError,
    )
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid4().hex,
        # The agent itself holds the store where they meet, on whatever port is free.
        rdzv_backend="c10d",
        rdzv_endpoint=f"{_LOOPBACK}:0",
        local_addr=_LOOPBACK,
        max_restarts=0,
        shutdown_timeout=_GRACE_SECONDS,
        signals_to_handle="SIGUSR2",  # torchrun would limit the time that a TERM leaves them
    )
    remove_folder(directory.last_words)
    directory.last_words.mkdir()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _num_cores() // num_processes)))
    passed_on = _pass_stops_on()
    try:
        elastic_launch(config, sys.executable)(*program, str(directory.path))
    except ChildFailedError as error:
        words = _last_words(directory)
        if passed_on and (stopped := _stopped(words)) is not None:
            return stopped
        return cause(words, error.failures)
    return _last_words(directory).get(0, 0)


def write_last_word(directory: RunDirectory, rank: int, word: Finished) -> None:
    """Say how it ended for one of the processes."""
    write_atomically(directory.last_words / f"{rank}.json", word.model_dump_json().encode())


def _pass_stops_on() -> list[int]:
    """Pass every TERM and INT on to all that is started here; the list holds those that came."""
    came: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        for child in _children():
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return came


def _stopped(words: Mapping[int, Finished]) -> Finished | None:
    """What those that heard of the stop said; who lost the others meanwhile, fell because of it."""
    said = [word for _, word in sorted(words.items()) if word.failure is None]
    clear = [w for w in words.values() if w.failure and w.failure.code not in _VAGUE]
    return said[0] if said and not clear else None


def cause(words: Mapping[int, Finished], exits: Mapping[int, _Exit]) -> Finished | int:
    """Why a run failed, of all the processes that did not end well.

    A failure that says something comes first; then a process that was killed, unless that came so
    late that it was killed because of the others; then failures that may be mere consequences.
    """
    failed = sorted(
        (word for word in words.values() if word.failure is not None), key=lambda word: word.at
    )
    clear = [word for word in failed if word.failure and word.failure.code not in _VAGUE]
    began = min(each.timestamp for each in exits.values())
    killed = [
        each.exitcode
        for each in exits.values()
        if each.exitcode < 0 and each.timestamp <= began + _AT_ONCE_SECONDS
    ]
    by_itself = [word for word in failed if word.failure and word.failure.code != PROCESS_LOST]
    silent = [each.exitcode for rank, each in exits.items() if rank not in words]
    candidates: list[Finished | int] = [*clear, *killed, *by_itself, *silent, *failed]
    return candidates[0] if candidates else 1


def _last_words(directory: RunDirectory) -> dict[int, Finished]:
    return {
        int(path.stem): Finished.model_validate_json(path.read_bytes())
        for path in sorted(directory.last_words.glob("*.json"))
    }


def _children() -> list[int]:
    """Processes that were started here and are not waited for yet."""
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
