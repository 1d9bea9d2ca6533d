"""The command line `tunesmith`: every verb, and the one place where an error becomes a line."""

import sys

import typer

from cli.commands import control, exports, files, importing, jobs, keys, models, servers
from cli.errors import CliError

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune language models on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    servers.serve,
    servers.worker,
    jobs.submit,
    jobs.jobs,
    jobs.job,
    jobs.logs,
    jobs.events,
    control.pause,
    control.resume,
    control.stop,
    control.cancel,
    jobs.spec,
    jobs.rerun,
    jobs.checkpoints,
    jobs.download,
    exports.export,
    exports.exports,
):
    app.command()(verb)
app.command("import")(importing.import_job)
app.add_typer(files.app, name="files")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="key")


def main() -> None:
    """Run one command; exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except CliError as error:
        typer.echo(f"tunesmith: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
