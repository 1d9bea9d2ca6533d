"""`tunesmith key`: who may talk to the server."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.client import connect
from cli.identifiers import key_id
from cli.render import Output, OutputOption, hint, moment, print_json, print_table

app = typer.Typer(help="Create, list and revoke API keys (admins).", no_args_is_help=True)


class Role(StrEnum):
    MEMBER = "member"
    ADMIN = "admin"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key, or what for.")],
    role: Annotated[Role, typer.Option(help="Admins also keep models and keys.")] = Role.MEMBER,
    project: Annotated[str | None, typer.Option(help="Make this project, with an admin.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key and print its secret, which is shown this once."""
    body = {"name": name, "role": role.value} | ({"project": project} if project else {})
    with connect() as client:
        key = client.post("/api_keys", body)
    if output is Output.JSON:
        print_json(key)
        return
    typer.echo(key["secret"])
    whose = f"{key['name']}, {key['role']} of {key['project_id']}"
    hint(f"{key['id']} ({whose}). The secret is not shown again.")


@app.command("list")
def list_keys(output: OutputOption = Output.TABLE) -> None:
    """List the keys, without their secrets."""
    with connect() as client:
        keys = client.get("/api_keys")["data"]
    if output is Output.JSON:
        print_json(keys)
        return
    columns = ("ID", "NAME", "ROLE", "ENDS IN", "CREATED")
    rows = [(k["id"], k["name"], k["role"], k["last4"], moment(k["created_at"])) for k in keys]
    print_table(columns, rows)


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="A key's id or name.")],
) -> None:
    """End a key at once."""
    with connect() as client:
        revoked = client.delete(f"/api_keys/{key_id(client, id)}")
    typer.echo(f"{revoked['id']} revoked")
