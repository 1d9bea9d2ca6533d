"""`tunesmith import`: a job file out of what another program trains by."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.client import Json
from cli.errors import CliError
from cli.render import hint, print_json


def import_job(
    source: Annotated[
        str, typer.Argument(help="A shell script, a YAML file, `-`, or a command in quotes.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: to the screen.")
    ] = None,
) -> None:
    """Make a job file of a train_sft command, or of YAML for Axolotl or LLaMA-Factory."""
    from cli.importing.sources import draft_of  # noqa: PLC0415 - the configuration loads here only

    draft = draft_of(_text(source))
    job = _with_files(draft.finished(), Path() if output is None else output.parent)
    if draft.notes:
        hint("Not carried over, or worth a look:")
    for note in draft.notes:
        hint(f"  {note.key}: {note.reason}")
    hint(f"The catalogue must have the model: tunesmith models add {job['model']} SOURCE")
    if output is None:
        print_json(job)
        return
    try:
        output.write_text(json.dumps(job, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot write {output}: {error.strerror}") from None
    hint(f"Next:\n  tunesmith submit {output}")


def _text(source: str) -> str:
    """What `source` holds or is."""
    if source == "-":
        return sys.stdin.read()
    if "--" in source and " " in source.strip():
        return source
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CliError(f"cannot read {source}: {reason}") from None


def _with_files(job: Json, folder: Path) -> Json:
    """Data files that are here, by their paths from where the job file will be."""
    named: Json = {key: _seen_from(folder, job[key]) for key in _SINGLE_FILES & job.keys()}
    if "training_files" in job:
        entries = job["training_files"]
        named["training_files"] = [{**e, "file": _seen_from(folder, e["file"])} for e in entries]
    return {**job, **named}


_SINGLE_FILES = frozenset({"training_file", "validation_file"})


def _seen_from(folder: Path, name: str) -> str:
    path = Path(name)
    return name if path.is_absolute() or not path.is_file() else os.path.relpath(path, folder)
