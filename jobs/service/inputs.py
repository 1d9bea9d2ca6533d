"""The data files of a job: whether they are such, and what they decide about its configuration.

A file that is still to be checked decides nothing yet; the job then waits, see
`jobs.service.validation`.
"""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from jobs.errors import InvalidRequest, NotFound
from jobs.identity import Identity
from jobs.models import File, Job
from jobs.repository import Lock, file_of
from jobs.requests import JobRequest
from jobs.service.files import CHECKED_PURPOSE
from jobs.service.starts import Start, without_inherited
from jobs.states import FileStatus
from training.combinations import no_loss_to_follow
from training.config import TrainingConfig, resolved
from training.data_config import FORMAT_NAMES, DataConfig, FormatName
from training.facts import ModelFacts, data_misfits, misfits
from training.held_out import held_out_misfits
from training.layout_fit import idle_misfits
from training.misfit import Misfit
from training.run_length import total_steps


@dataclass(frozen=True)
class Input:
    """A file in its role, which is `training` or `validation`."""

    role: str
    position: int
    file: File
    weight: float


def is_waited_for(inputs: Sequence[Input]) -> bool:
    """Whether one of the files is still to be checked."""
    return any(item.file.status == FileStatus.UPLOADED for item in inputs)


def inputs_of(session: Session, identity: Identity, request: JobRequest) -> list[Input]:
    """The files that a job is to read, kept as they are until the end of the transaction.

    Raises:
        InvalidRequest: One is not there, is no training data, or has errors.
    """
    single = request.training_file is not None
    inputs = [
        Input(
            "training",
            position,
            _data_file(
                session,
                identity,
                entry.file,
                "training_file" if single else f"training_files.{position}.file",
            ),
            entry.weight,
        )
        for position, entry in enumerate(request.files)
    ]
    if request.validation_file is not None:
        file = _data_file(session, identity, request.validation_file, "validation_file")
        inputs.append(Input("validation", 0, file, 1.0))
    return inputs


def _data_file(session: Session, identity: Identity, file_id: str, param: str) -> File:
    try:
        file = file_of(session, identity, file_id, lock=Lock.KEEP)
    except NotFound as error:
        raise InvalidRequest(
            f"{param}: no file {file_id!r} in this project; upload one at POST /v1/files",
            param=param,
            code="file_not_found",
        ) from error
    if file.purpose != CHECKED_PURPOSE:
        raise InvalidRequest(
            f"{param}: the purpose of {file_id!r} is {file.purpose!r}; "
            f"a job reads files with purpose {CHECKED_PURPOSE!r}",
            param=param,
            code="invalid_file_purpose",
        )
    if file.status == FileStatus.ERROR:
        raise InvalidRequest(
            f"{param}: {in_error(file)}", param=param, code="invalid_training_file"
        )
    return file


def in_error(file: File) -> str:
    """Why a file cannot be read, in one sentence."""
    return f"{file.id!r} has errors: {file.status_details}"


def check_format(training: TrainingConfig, inputs: Sequence[Input]) -> None:
    """Hold the files that are checked to the format asked for; raises InvalidRequest."""
    asked = training.data.format
    for item in inputs:
        if asked is not None and item.file.format not in {asked, None}:
            raise InvalidRequest(
                f"training.data.format: line 1 of {item.file.id} ({item.file.filename}) is "
                f"{item.file.format!r}, not {asked!r}; the formats are {', '.join(FORMAT_NAMES)}",
                param="training.data.format",
                code="format_mismatch",
            )


def resolve(
    training: TrainingConfig, facts: ModelFacts, inputs: Sequence[Input], start: Start | None
) -> TrainingConfig:
    """The configuration with nothing left to choose, as far as the files are known.

    Args:
        training: What is asked, with what is taken over from `start`.
        facts: Of the base model.
        inputs: The files.
        start: What training goes on from.

    Raises:
        InvalidRequest: It does not fit the model, or the rows.
    """
    if start is not None:  # whose tokenizer may have one that was added
        facts = facts.model_copy(update={"has_bos_token": None})
    rows = sum((i.file.num_rows or 0) * i.weight for i in inputs if i.role == "training")
    num_rows = max(1, math.ceil(rows))
    formats = {item.file.format for item in inputs if item.file.format is not None}
    settled = resolved(training, num_rows=num_rows, context_length=facts.context_length)
    settled = settled.model_copy(update={"data": _laid_out(settled.data, facts, formats, start)})
    holds_out = settled.data.eval_split > 0 or any(i.role == "validation" for i in inputs)
    unfit = (
        *misfits(settled, facts),
        *data_misfits(settled.data, facts, formats),
        *held_out_misfits(settled, has_rows=holds_out),
        *(() if is_waited_for(inputs) else _misfits_of_rows(settled, formats, num_rows)),
    )
    for misfit in unfit:
        raise InvalidRequest(str(misfit), param=misfit.param)
    validates = any(item.role == "validation" for item in inputs)
    if reason := no_loss_to_follow(settled.optimization, settled.data, validates=validates):
        raise InvalidRequest(reason, param="training.optimization.lr_scheduler_type")
    return settled


def _laid_out(
    data: DataConfig, facts: ModelFacts, formats: Set[FormatName], start: Start | None
) -> DataConfig:
    """`data` without what was taken over, but is not for rows of these formats."""
    if start is None:
        return data
    misfits = (*data_misfits(data, facts, formats), *idle_misfits(data, formats))
    return without_inherited(data, start, {misfit.param for misfit in misfits})


def _misfits_of_rows(
    training: TrainingConfig, formats: Set[FormatName], num_rows: int
) -> Iterator[Misfit]:
    """What does not fit the rows of files that are all known."""
    yield from idle_misfits(training.data, formats)
    # Rows may be left out, so that a run is shorter; only where they are split is it longer.
    if training.data.overlong != "split":
        yield from training.optimization.length_misfits(total_steps(training, num_rows))


def pin(job: Job, item: Input) -> dict[str, Any]:
    """What a job remembers of a file, as a row."""
    return {
        "job_id": job.id,
        "role": item.role,
        "position": item.position,
        "file_id": item.file.id,
        "sha256": item.file.sha256,
        "format": item.file.format,
        "weight": item.weight,
    }
