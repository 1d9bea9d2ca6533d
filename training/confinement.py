"""Takes from this process what reading a stranger's file does not need.

Memory and processor time get a limit. A filter of the kernel's (seccomp) then refuses to open
sockets, to open files for writing or to change any, to start programs and to signal processes: a
file that finds a fault in a library that reads it can do little with it. What is open stays so.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType, MappingProxyType

_GRACE_SECONDS = 5
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_LOAD, _EQUALS, _AT_LEAST, _HAS_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_OTHER_ABI = 0x40000000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_MACHINES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
)
"""Of each machine its column below, and how the kernel calls it."""
_REFUSED: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "socket": (41, 198),
        "socketpair": (53, 199),
        "io_uring_setup": (425, 425),
        "execve": (59, 221),
        "execveat": (322, 281),
        "kill": (62, 129),
        "tkill": (200, 130),
        "tgkill": (234, 131),
        "rt_sigqueueinfo": (129, 138),
        "rt_tgsigqueueinfo": (297, 240),
        "pidfd_send_signal": (424, 424),
        "ptrace": (101, 117),
        "process_vm_writev": (311, 271),
        "mount": (165, 40),
        "openat2": (437, 437),
        "open_by_handle_at": (304, 265),
        "creat": (85, -1),
        "truncate": (76, 45),
        "chmod": (90, -1),
        "fchmodat": (268, 53),
        "chown": (92, -1),
        "lchown": (94, -1),
        "fchownat": (260, 54),
        "unlink": (87, -1),
        "unlinkat": (263, 35),
        "rmdir": (84, -1),
        "rename": (82, -1),
        "renameat": (264, 38),
        "renameat2": (316, 276),
        "link": (86, -1),
        "linkat": (265, 37),
        "symlink": (88, -1),
        "symlinkat": (266, 36),
        "mkdir": (83, -1),
        "mkdirat": (258, 34),
        "mknod": (133, -1),
        "mknodat": (259, 33),
    }
)
"""System calls by their numbers on each machine; -1: it has none."""
_OPENING: Mapping[str, tuple[tuple[int, int], int]] = MappingProxyType(
    {"open": ((2, -1), 1), "openat": ((257, 56), 2)}
)
"""Beside their numbers, which argument tells whether a file is opened for writing."""


class OutOfTime(Exception):  # noqa: N818 - what happened
    """The processor time is used up."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


def confine(*, max_memory_bytes: int, max_cpu_seconds: int) -> bool:
    """Give up, for good, what is not needed; call it while there is only one thread.

    Args:
        max_memory_bytes: Of addresses; more raises MemoryError.
        max_cpu_seconds: More raises OutOfTime, and kills a few seconds later.

    Returns:
        Whether the kernel filters system calls; some cannot.
    """
    _limit(resource.RLIMIT_AS, max_memory_bytes, max_memory_bytes)
    signal.signal(signal.SIGXCPU, _out_of_time)
    _limit(resource.RLIMIT_CPU, max_cpu_seconds, max_cpu_seconds + _GRACE_SECONDS)
    _limit(resource.RLIMIT_CORE, 0, 0)
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    return machine is not None and _filter(list(_instructions(*machine)))


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, unless a lower one is set."""
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _filter(instructions: list[_Instruction]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)


def _instructions(column: int, architecture: int) -> Iterator[_Instruction]:
    yield _Instruction(_LOAD, 0, 0, _ARCHITECTURE)
    yield from _if(_EQUALS, architecture, negated=True, then=_KILL)
    yield _Instruction(_LOAD, 0, 0, _NUMBER)
    yield from _if(_AT_LEAST, _OTHER_ABI, then=_REFUSE)
    for numbers in _REFUSED.values():
        if numbers[column] != -1:
            yield from _if(_EQUALS, numbers[column], then=_REFUSE)
    for numbers, argument in _OPENING.values():
        if numbers[column] != -1:
            yield _Instruction(_EQUALS, 0, 4, numbers[column])
            yield _Instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
            yield from _if(_HAS_ANY, _WRITING, then=_REFUSE)
            yield _Instruction(_RETURN, 0, 0, _ALLOW)
    yield _Instruction(_RETURN, 0, 0, _ALLOW)


def _if(
    code: int, value: int, *, then: int, negated: bool = False
) -> tuple[_Instruction, _Instruction]:
    """Return `then` if what is loaded compares so with `value`, else go on."""
    skipped = (1, 0) if negated else (0, 1)
    return _Instruction(code, *skipped, value), _Instruction(_RETURN, 0, 0, then)
