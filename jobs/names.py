"""How what is tuned here is called: a job's result, and each of its checkpoints."""

import re

_SUFFIX_CHARS = re.compile(r"[^a-z0-9-]+")
_CHECKPOINT = re.compile(r"(ft:.+):ckpt-step-(\d{1,18})")


def tuned_name(base: str, organization: str, suffix: str | None, job_id: str) -> str:
    """`ft:{base}:{organization}:{suffix}:{hash}`; without a suffix its place stays empty."""
    plain = _SUFFIX_CHARS.sub("-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:{organization}:{plain}:{job_id[-8:]}"


def checkpoint_name(tuned: str, step: int) -> str:
    """A checkpoint of the job that makes `tuned`."""
    return f"{tuned}:ckpt-step-{step}"


def split_checkpoint_name(name: str) -> tuple[str, int] | None:
    """The tuned model's name and the step; None: it is no name of a checkpoint."""
    found = _CHECKPOINT.fullmatch(name)
    return None if found is None else (found[1], int(found[2]))
