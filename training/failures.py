"""Errors of a run that its owner can act on, and the one table from any error to a `Failure`.

    RunError                a run that ends badly, with whose fault it is
    StopRequested           a TERM or INT that came before there was anything to save

Light: the heavy libraries' errors are recognised by name.
"""

import errno
from collections.abc import Iterator

from pydantic import ValidationError

from training.data_files import DataError
from training.events import Failure, Fault
from training.misfit import Misfit
from training.run_directory import StopReason

INTERNAL_ERROR, PROCESS_LOST = "internal_error", "process_lost"
"""Failures that may be consequences of another process's, where several train together."""


class RunError(Exception):
    """A run ends badly: `failure` says why, in words for its owner."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        fault: Fault,
        param: str | None = None,
        remedy: str,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(code=code, message=message, fault=fault, param=param, remedy=remedy)

    @classmethod
    def of(cls, failure: Failure) -> "RunError":
        """An error that carries a failure that is known already."""
        return cls(
            failure.code,
            failure.message,
            fault=failure.fault,
            param=failure.param,
            remedy=failure.remedy or "",
        )


class StopRequested(BaseException):
    """The process was told to end; a BaseException, so that no library swallows it."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


def invalid_spec(message: str, *, param: str, remedy: str) -> RunError:
    """What was asked for does not fit the model, the data or this machine."""
    return RunError("invalid_spec", message, fault="spec", param=param, remedy=remedy)


def unfit(misfit: Misfit) -> RunError:
    """What a run ends with that was started all the same."""
    remedy = misfit.remedy or f"change {misfit.param}, or leave it out"
    return invalid_spec(_sentence(misfit.message), param=misfit.param, remedy=_sentence(remedy))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def failure_of(error: Exception) -> Failure:
    """What `error` means for the owner of the run."""
    if isinstance(error, RunError):
        return error.failure
    for kind in (_of_the_input, shortage, _of_the_company, _of_the_system):
        if (found := kind(error)) is not None:
            return found
    return _internal(error)


def shortage(error: BaseException) -> Failure | None:
    """The memory or the disk that `error` says was not enough, if it is about either.

    Libraries wrap what the system said, so what an error was raised from is looked at, too.
    """
    for each in _chain(error):
        text = str(each)
        if type(each).__name__ == "OutOfMemoryError" or _says(text, _GPU_WORDS):
            return _gpu_out_of_memory()
        if isinstance(each, MemoryError) or _has_errno(each, _MEMORY) or _says(text, _HOST_WORDS):
            return _host_out_of_memory()
        if _has_errno(each, _DISK) or _says(text, _DISK_WORDS):
            return _disk_full()
    return None


_MEMORY = frozenset({errno.ENOMEM})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_GPU_WORDS = (
    *("CUDA out of memory", "CUDA error: out of memory", "Triton Error [CUDA]: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED"),
    *("Cuda failure 'out of memory'", "Cuda failure 2 'out of memory'"),  # NCCL, by its version
)
_HOST_WORDS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc")
_DISK_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    # What torch says when it could not write a file of a checkpoint to its end.
    "PytorchStreamWriter failed writing",
    ". unexpected pos ",
)
_LESS_MEMORY = (
    "Lower per_device_train_batch_size (and raise gradient_accumulation_steps), lower max_length, "
    "turn gradient_checkpointing on, or quantize the model."
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _has_errno(error: BaseException, numbers: frozenset[int]) -> bool:
    return isinstance(error, OSError) and error.errno in numbers


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _gpu_out_of_memory() -> Failure:
    return Failure(
        code="gpu_out_of_memory",
        message="The GPU's memory is not enough for this run.",
        fault="resources",
        remedy=_LESS_MEMORY,
    )


def _host_out_of_memory() -> Failure:
    return Failure(
        code="host_out_of_memory",
        message="The memory of the worker's host is not enough for this run.",
        fault="resources",
        remedy=_LESS_MEMORY,
    )


def _disk_full() -> Failure:
    return Failure(
        code="disk_full",
        message="A disk that the run writes to is full.",
        fault="resources",
        remedy="Free space on the worker and in its store, or keep fewer checkpoints.",
    )


def _of_the_input(error: Exception) -> Failure | None:
    if isinstance(error, ValidationError):
        return _invalid_run_file(error)
    if isinstance(error, DataError):
        return Failure(
            code="invalid_data",
            message=f"A data file cannot be read: {error}.",
            fault="data",
            param="training_file",
            remedy="Correct that line and upload the file again.",
        )
    return None


def _invalid_run_file(error: ValidationError) -> Failure:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return Failure(
        code="invalid_spec",
        message=f"run.json is not a valid run: {place or 'the file'}: {first['msg']}.",
        fault="spec",
        param=place or None,
        remedy="Correct that key; where the service wrote the file, its parts differ in version.",
    )


def _of_the_system(error: Exception) -> Failure | None:
    if isinstance(error, FileNotFoundError):
        return Failure(
            code="file_missing",
            message=f"A file is missing: {error.filename or error}.",
            fault="infrastructure",
            remedy="Look for what removes files below the worker's data folder.",
        )
    if isinstance(error, OSError):
        return Failure(
            code="system_error",
            message=f"The system refused: {error}.",
            fault="infrastructure",
            remedy="Look at the worker's host: permissions, mounts, limits.",
        )
    return None


_PEER_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe [127.0.0.1]")


def _of_the_company(error: Exception) -> Failure | None:
    """What gloo and NCCL say in a process when another one of its run has ended."""
    by_name = type(error).__name__ in {"DistBackendError", "DistNetworkError"}
    if not by_name and not (isinstance(error, RuntimeError) and _says(str(error), _PEER_WORDS)):
        return None
    return Failure(
        code="process_lost",
        message="Another process of the run has ended before its time.",
        fault="infrastructure",
        remedy="The run's log says what became of it.",
    )


def _internal(error: Exception) -> Failure:
    return Failure(
        code="internal_error",
        message=f"{type(error).__name__}: {error}",
        fault="infrastructure",
        remedy="The run's log holds the traceback; please report it.",
    )
