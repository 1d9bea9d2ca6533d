"""`tunesmith models`: the catalogue of base models, and what was made from them."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.client import Client, Json, connect, model_path
from cli.errors import CliError
from cli.render import Output, OutputOption, hint, moment, print_json, print_table

app = typer.Typer(help="Keep the catalogue of models.", no_args_is_help=True)

_LOOK_SECONDS = 0.5


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What jobs will call it.")],
    source: Annotated[str, typer.Argument(help="A folder on the workers, or a hub id.")],
    revision: Annotated[str | None, typer.Option(help="Of the hub id: a commit.")] = None,
) -> None:
    """Add a base model, and wait until a worker has looked at it."""
    folder = Path(source)
    body: Json = {"name": name, "source": str(folder.resolve()) if folder.is_dir() else source}
    if revision is not None:
        body["revision"] = revision
    with connect() as client:
        model = _wait_until_known(client, client.post("/models", body))
    if model["status"] == "error":
        raise CliError((model.get("error") or {}).get("message") or f"{name} cannot be used")
    typer.echo(f"{model['id']} {model['status']}")


@app.command("list")
def list_models(output: OutputOption = Output.TABLE) -> None:
    """List base models, and the models made here."""
    with connect() as client:
        models = client.get("/models")["data"]
    if output is Output.JSON:
        print_json(models)
        return
    columns = ("NAME", "KIND", "STATUS", "OWNER", "CREATED")
    rows = [
        (m["id"], m.get("kind"), m.get("status"), m["owned_by"], moment(m["created"]))
        for m in models
    ]
    print_table(columns, rows)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="A model of the list.")]) -> None:
    """Take a model out of the catalogue."""
    with connect() as client:
        removed = client.delete(model_path(name))
    typer.echo(f"{removed['id']} removed")


def _wait_until_known(client: Client, model: Json) -> Json:
    if model["status"] == "pending":
        hint(f"A worker looks at {model['id']} …")
    while model["status"] == "pending":
        time.sleep(_LOOK_SECONDS)
        model = client.get(model_path(model["id"]))
    return model
