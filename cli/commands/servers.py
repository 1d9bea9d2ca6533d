"""`serve` and `worker`: the verbs that start servers, and import them only then."""

import os
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_PORT = 8642

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="What is kept; default: $TUNESMITH_DATA_DIR, data."),
]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = DEFAULT_PORT,
    data_dir: DataDirOption = None,
) -> None:
    """Run the API and one worker on this machine, until Ctrl-C."""
    _use(data_dir)
    from cli.serving import serve as run  # noqa: PLC0415 - uvicorn and the API load here only

    run(host, port)


def worker(data_dir: DataDirOption = None) -> None:
    """Run a worker alone, beside an API elsewhere (the TUNESMITH_* settings say where)."""
    _use(data_dir)
    from cli.worker_process import become_worker  # noqa: PLC0415 - as above

    become_worker()


def _use(data_dir: Path | None) -> None:
    """Settings are read from the environment, here and in every child."""
    if data_dir is not None:
        os.environ["TUNESMITH_DATA_DIR"] = str(data_dir.resolve())
