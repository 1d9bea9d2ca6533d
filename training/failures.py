"""Errors of a run that its owner can act on, and the one table from any error to a `Failure`.

    RunError                a run that ends badly, with whose fault it is
    StopRequested           a TERM or INT that came before there was anything to save

Light: the heavy libraries' errors are recognised by name.
"""

import errno

from pydantic import ValidationError

from training.events import Failure, Fault
from training.formats import DataError
from training.run_directory import StopReason


class RunError(Exception):
    """A run ends badly: `failure` says why, in words for its owner."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        fault: Fault,
        param: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = Failure(code=code, message=message, fault=fault, param=param, remedy=remedy)


class StopRequested(BaseException):
    """The process was told to end; a BaseException, so that no library swallows it."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


def invalid_spec(message: str, *, param: str, remedy: str | None = None) -> RunError:
    """What was asked for does not fit the model, the data or this machine."""
    return RunError("invalid_spec", message, fault="spec", param=param, remedy=remedy)


def failure_of(error: Exception) -> Failure:
    """What `error` means for the owner of the run."""
    if isinstance(error, RunError):
        return error.failure
    return _of_the_input(error) or _of_the_machine(error) or _internal(error)


def _of_the_input(error: Exception) -> Failure | None:
    if isinstance(error, ValidationError):
        return _invalid_run_file(error)
    if isinstance(error, DataError):
        return Failure(
            code="invalid_data",
            message=f"A data file cannot be read: {error}.",
            fault="data",
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
    )


def _of_the_machine(error: Exception) -> Failure | None:
    return _of_the_system(error) if isinstance(error, OSError) else _out_of_memory(error)


def _of_the_system(error: OSError) -> Failure:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Failure(
            code="disk_full",
            message="The disk of the run directory is full.",
            fault="resources",
            remedy="Free space on the worker, or keep fewer checkpoints.",
        )
    if isinstance(error, FileNotFoundError):
        return Failure(
            code="file_missing",
            message=f"A file is missing: {error.filename or error}.",
            fault="infrastructure",
        )
    return Failure(
        code="system_error", message=f"The system refused: {error}.", fault="infrastructure"
    )


def _out_of_memory(error: Exception) -> Failure | None:
    text = str(error)
    remedy = (
        "Lower per_device_train_batch_size (and raise gradient_accumulation_steps), lower "
        "max_length, turn gradient_checkpointing on, or quantize the model."
    )
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        code, message = "cuda_out_of_memory", "The GPU's memory is not enough for this run."
    elif isinstance(error, MemoryError) or "can't allocate memory" in text:
        code, message = "out_of_memory", "The machine's memory is not enough for this run."
    else:
        return None
    return Failure(code=code, message=message, fault="resources", remedy=remedy)


def _internal(error: Exception) -> Failure:
    return Failure(
        code="internal_error",
        message=f"{type(error).__name__}: {error}",
        fault="infrastructure",
        remedy="The run's log holds the traceback.",
    )
