"""`export` and `exports`: what was trained, made into another form and fetched."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.changes import changes_of
from cli.client import Client, Json, connect, job_path
from cli.commands.jobs import JobArgument
from cli.download import download_file, download_folder
from cli.errors import CliError
from cli.identifiers import checkpoint_id, job_id
from cli.progress import job_view
from cli.render import (
    Output,
    OutputOption,
    hint,
    how_it_ended,
    moment,
    print_json,
    print_table,
    size,
)

_POLL_SECONDS = 1.0
_EXIT_INTERRUPTED = 130
_OPEN = frozenset({"queued", "running"})


class Kind(StrEnum):
    ADAPTER = "adapter"
    MERGED = "merged"
    GGUF = "gguf"
    HUB = "hub"


def export(
    id: JobArgument,
    *,
    kind: Annotated[Kind, typer.Option("--kind", help="What to make, or where to push it.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the kind: outtype=q8_0."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint's step or id, instead of the result.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is made; fail unless it is.")
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option("-o", "--output-file", metavar="PATH", help="Wait, and fetch it there."),
    ] = None,
) -> None:
    """Make a merged model, a GGUF file or a whole adapter of what was trained, or push it."""
    body = {**changes_of(settings or ()), "kind": kind.value}
    if target is not None and kind is Kind.HUB:
        raise CliError("-o: what is pushed to a hub is kept there; leave it out")
    with connect() as client:
        whole_id = job_id(client, id)
        if checkpoint is not None:
            saved = client.pages(job_path(whole_id, "/checkpoints"), limit=100)
            body["checkpoint"] = checkpoint_id(saved, checkpoint)
        made = client.post(job_path(whole_id, "/exports"), body)
        if wait or target is not None:
            made = _followed(client, made)
        if target is not None:
            target = _fetch(client, made, target)
    typer.echo(made["id"] if target is None else target)
    if made["status"] in _OPEN:
        hint(f"Next:\n  tunesmith exports {whole_id}")
    elif made["hub"]:
        hint(f"Pushed to {made['hub']['url']}")


def exports(id: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """List a job's exports, the newest first."""
    with connect() as client:
        found = list(client.pages(job_path(job_id(client, id), "/exports"), limit=100))
    if output is Output.JSON:
        print_json(found)
        return
    columns = ("ID", "KIND", "STEP", "STATUS", "SIZE", "CREATED", "WHERE")
    print_table(columns, [_row(each) for each in found])


def _row(made: Json) -> tuple[object, ...]:
    where = (made["hub"] or {}).get("url") or made["filename"]
    return (
        made["id"],
        made["kind"],
        made["step_number"],
        made["phase"] or made["status"],
        size(made["bytes"]),
        moment(made["created_at"]),
        (made["error"] or {}).get("message") or where,
    )


def _followed(client: Client, made: Json) -> Json:
    """The export as it ended.

    Raises:
        CliError: It was not made; the sentence says why.
    """
    path = _path(made)
    try:
        with job_view() as view:
            while made["status"] in _OPEN:
                view.show(made["phase"] or made["status"], {})
                time.sleep(_POLL_SECONDS)
                made = client.get(path)
    except KeyboardInterrupt:
        hint(f"The export {made['id']} goes on.")
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    if made["status"] != "succeeded":
        raise CliError(how_it_ended(made))
    return made


def _fetch(client: Client, made: Json, target: Path) -> Path:
    """Where it is: as it was asked for, or a file in that folder.

    An archive is unpacked, unless the name it was asked for ends in .zip.
    """
    path = f"{_path(made)}/content"
    is_archive = made["filename"].endswith(".zip")
    if is_archive and target.suffix != ".zip":
        remote = download_folder(client, path, {}, target)
    else:
        target = target / Path(made["filename"]).name if target.is_dir() else target
        remote = download_file(client, path, {}, target)
    hint(f"{size(remote.bytes)}, sha256 {remote.sha256} verified")
    return target


def _path(made: Json) -> str:
    return job_path(made["fine_tuning_job_id"], f"/exports/{made['id']}")
