"""`tunesmith files`: the data that jobs train on."""

from pathlib import Path
from typing import Annotated

import typer

from cli.client import connect
from cli.identifiers import file_id
from cli.render import Output, OutputOption, moment, print_json, print_table, size
from cli.submission import upload as send

app = typer.Typer(help="Upload, list and delete data files.", no_args_is_help=True)


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(help="JSON Lines, JSON, CSV, text, Parquet or Arrow.")],
    purpose: Annotated[str, typer.Option(help="As OpenAI names it.")] = "fine-tune",
) -> None:
    """Send a file and have its rows checked; prints its id."""
    with connect() as client:
        typer.echo(send(client, path, purpose)["id"])


@app.command("list")
def list_files(output: OutputOption = Output.TABLE) -> None:
    """List the files, the newest first."""
    with connect() as client:
        files = list(client.pages("/files", limit=1000))
    if output is Output.JSON:
        print_json(files)
        return
    columns = ("ID", "NAME", "SIZE", "ROWS", "FORMAT", "STATUS", "CREATED")
    rows = [
        (f["id"], f["filename"], size(f["bytes"]), f.get("num_rows"), f.get("format"),
         f["status"], moment(f["created_at"]))
        for f in files
    ]  # fmt: skip
    print_table(columns, rows)


@app.command()
def delete(
    id: Annotated[str, typer.Argument(metavar="ID", help="A file, or its first characters.")],
) -> None:
    """Delete a file; a job that needs it keeps its bytes until it ends."""
    with connect() as client:
        deleted = client.delete(f"/files/{file_id(client, id)}")
    typer.echo(f"{deleted['id']} deleted")
