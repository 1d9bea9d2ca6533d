"""A job written out as a body that can be posted, and posted again with changes.

Such a body leaves nothing to choose: what was `auto` is a number, and OpenAI's hyperparameters
are where training reads them.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from jobs.identity import Identity
from jobs.models import Job, JobFile
from jobs.redaction import Redactor
from jobs.repository import files_of_job, job_of
from jobs.requests import JobRequest, Limits
from jobs.service import submission
from training.optimization_config import FULL_LEARNING_RATE, LORA_LEARNING_RATE
from training.spellings import canonical

Body = dict[str, Any]

_FILES = ("training_file", "training_files")
_TWINS: Mapping[str, tuple[str, ...]] = {
    "n_epochs": ("num_train_epochs",),
    "batch_size": ("per_device_train_batch_size", "gradient_accumulation_steps"),
    "learning_rate_multiplier": ("learning_rate",),
}
"""What OpenAI's hyperparameters set in `training.optimization`."""


def spec(session: Session, identity: Identity, job_id: str) -> Body:
    """The job's body without what looks like a secret; raises NotFound."""
    redact = Redactor([])
    return {
        key: _redacted(value, redact) if key in {"integrations", "metadata"} else value
        for key, value in _body(session, job_of(session, identity, job_id)).items()
    }


def changed_spec(
    session: Session, identity: Identity, job_id: str, changes: Mapping[str, Any]
) -> Body:
    """The body of a job as an old one was, with changes, not checked yet; raises NotFound."""
    return changed(_body(session, job_of(session, identity, job_id)), changes)


def rerun(session: Session, identity: Identity, job_id: str, request: JobRequest) -> Job:
    """A new job after an old one.

    Raises:
        NotFound: The project has no such job.
        InvalidRequest: Something asked for cannot work (any more).
    """
    job = job_of(session, identity, job_id)
    made = submission.submit(session, identity, request)
    made.rerun_of = job.id
    return made


def changed(body: Body, changes: Mapping[str, Any]) -> Body:
    """`body` with `changes` laid over it, object by object; null stands for the default.

    A change in an older spelling, or in OpenAI's words, replaces what says the same. A changed
    `adapter.type` begins that section anew, and so does a number of bits its own: their other keys
    belong to the value before.
    """
    asked = dict(changes)
    if isinstance(asked.get("training"), dict):
        try:
            asked["training"] = canonical(asked["training"])
        except ValueError:
            return {**body, **asked}  # refused where the whole body is, with the same words
    base = _without_twins(_without_other_files(body, asked), asked)
    return _merged(_begun_anew(base, asked), asked)


def _body(session: Session, job: Job) -> Body:
    files = files_of_job(session, job.id)
    validation = [file.file_id for file in files if file.role == "validation"]
    return {
        "model": job.model,
        **_training_files([file for file in files if file.role == "training"]),
        "validation_file": validation[0] if validation else None,
        "suffix": job.suffix,
        "seed": job.seed,
        "metadata": job.user_metadata,
        "integrations": job.integrations,
        "resources": {"pool": job.pool, "gpus": job.gpus},
        "priority": job.priority,
        "limits": Limits.model_validate(job.limits).model_dump(),
        "training": job.training,
    }


def _training_files(files: list[JobFile]) -> Body:
    if len(files) == 1 and files[0].weight == 1:
        return {"training_file": files[0].file_id}
    return {"training_files": [{"file": f.file_id, "weight": f.weight} for f in files]}


def _redacted(value: Any, redact: Redactor) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(inner, redact) for key, inner in value.items()}
    return [_redacted(inner, redact) for inner in value] if isinstance(value, list) else value


def _merged(base: Body, changes: Mapping[str, Any]) -> Body:
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            inner = result.get(key)
            result[key] = _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = value
    return result


def _without_other_files(body: Body, asked: Body) -> Body:
    """One spelling of the training files: that of the changes, if they name any."""
    named = any(asked.get(key) is not None for key in _FILES)
    return {key: value for key, value in body.items() if not (named and key in _FILES)}


def _without_twins(body: Body, asked: Body) -> Body:
    """What the changes set as hyperparameters is not set in `training` as well."""
    method = asked.get("method")
    supervised = method.get("supervised") if isinstance(method, dict) else None
    new = supervised.get("hyperparameters") if isinstance(supervised, dict) else None
    spellings = [part for part in (asked.get("hyperparameters"), new) if isinstance(part, dict)]
    given = {key for part in spellings for key in part}
    dropped = {twin for key, twins in _TWINS.items() if key in given for twin in twins}
    return _without(body, ("training", "optimization"), dropped)


def _begun_anew(body: Body, asked: Body) -> Body:
    kind, bits = ("training", "adapter"), ("training", "model", "quantization")
    if _differs(body, asked, (*kind, "type")):
        rates = {LORA_LEARNING_RATE, FULL_LEARNING_RATE}
        if _at(body, ("training", "optimization", "learning_rate")) in rates:
            body = _without(body, ("training", "optimization"), {"learning_rate"})
        body = _without(body, kind[:-1], {kind[-1]})
    if _differs(body, asked, (*bits, "bits")):
        body = _without(body, bits[:-1], {bits[-1]})
    return body


def _differs(body: Body, asked: Body, path: tuple[str, ...]) -> bool:
    value = _at(asked, path)
    return value is not None and value != _at(body, path)


def _at(value: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _without(body: Body, path: tuple[str, ...], keys: set[str]) -> Body:
    """A copy of `body` in which the object at `path` lacks these keys."""
    if not path:
        return {key: value for key, value in body.items() if key not in keys}
    first, *rest = path
    return {**body, first: _without(body[first], tuple(rest), keys)}
