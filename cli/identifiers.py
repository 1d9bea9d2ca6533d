"""Ids as people type them: any beginning that fits one thing only, with or without its prefix."""

import re
from collections.abc import Iterable

from cli.client import Client, Json
from cli.errors import CliError

_HEX_DIGITS = 24
_MOST_LISTED = 8


def job_id(client: Client, typed: str) -> str:
    """The id of a job that `typed` begins.

    Raises:
        CliError: No job, or more than one, has such an id.
    """
    if _is_whole(typed, "ftjob-"):
        return typed
    return _match(typed, client.pages("/fine_tuning/jobs", limit=100), "job")


def file_id(client: Client, typed: str) -> str:
    """As `job_id`, of a file."""
    if _is_whole(typed, "file-"):
        return typed
    return _match(typed, client.pages("/files", limit=1000), "file")


def key_id(client: Client, typed: str) -> str:
    """As `job_id`, of an API key, which may also be named."""
    keys = client.get("/api_keys")["data"]
    named = [str(key["id"]) for key in keys if key["name"] == typed]
    if len(named) > 1:
        raise CliError(f"{typed!r} names {len(named)} API keys: {_listed(named)}")
    return named[0] if named else _match(typed, keys, "API key")


def checkpoint_id(checkpoints: Iterable[Json], typed: str) -> str:
    """As `job_id`, of a checkpoint, which may also be given by its step."""
    found = list(checkpoints)  # newest first: of a step saved twice, the newer one
    at_step = [c["id"] for c in found if str(c["step_number"]) == typed]
    if at_step:
        return str(at_step[0])
    if typed.isdigit() and not any(_begins(c["id"], typed) for c in found):
        steps = ", ".join(str(c["step_number"]) for c in found) or "none yet"
        raise CliError(f"there is no checkpoint of step {typed}; there are {steps}")
    return _match(typed, found, "checkpoint")


def _is_whole(typed: str, prefix: str) -> bool:
    return typed.startswith(prefix) and len(typed) == len(prefix) + _HEX_DIGITS


def _match(typed: str, things: Iterable[Json], noun: str) -> str:
    if not typed:
        raise CliError(f"give the id of a {noun}, or its first characters")
    ids = [thing["id"] for thing in things if _begins(thing["id"], typed)]
    if not ids:
        raise CliError(f"no {noun} has an id that begins with {typed!r}")
    if len(ids) > 1:
        raise CliError(f"{typed!r} begins the ids of {len(ids)} {noun}s: {_listed(ids)}")
    return str(ids[0])


def _listed(ids: list[str]) -> str:
    return ", ".join(ids[:_MOST_LISTED]) + (", …" if len(ids) > _MOST_LISTED else "")


def _begins(whole: str, typed: str) -> bool:
    bare = re.sub(r"^[a-z]+[-_]", "", whole)
    return whole.startswith(typed) or bare.startswith(typed)
