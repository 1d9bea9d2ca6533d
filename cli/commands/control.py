"""`pause`, `resume`, `stop` and `cancel`: what is wanted of a job; answered at once."""

import typer

from cli.client import connect, job_path
from cli.commands.jobs import JobArgument
from cli.identifiers import job_id
from cli.render import hint


def pause(id: JobArgument) -> None:
    """Hold a job: it saves a checkpoint and gives its hardware back."""
    _ask(id, "pause")


def resume(id: JobArgument) -> None:
    """Queue a paused job again, or take a request to pause or stop back."""
    _ask(id, "resume")


def stop(id: JobArgument) -> None:
    """End a job with what is trained so far, adapter included."""
    _ask(id, "stop")


def cancel(id: JobArgument) -> None:
    """Stop a job for good."""
    _ask(id, "cancel")


def _ask(id: str, verb: str) -> None:
    with connect() as client:
        answered = client.post(job_path(job_id(client, id), f"/{verb}"))
    typer.echo(f"{answered['id']} {answered['status']}")
    if intent := answered.get("intent"):
        hint(f"The {intent} was requested; to take it back: tunesmith resume {answered['id']}")
