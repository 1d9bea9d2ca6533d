"""`submit`, and the verbs that look at a job or fetch what it made."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.changes import changes_of
from cli.client import Client, Json, connect, job_path
from cli.download import download_folder
from cli.errors import CliError
from cli.follow import follow, stream
from cli.identifiers import checkpoint_id, job_id
from cli.progress import job_view
from cli.progress import numbers as progress_numbers
from cli.render import (
    Output,
    OutputOption,
    duration,
    hint,
    how_it_ended,
    moment,
    number,
    print_fields,
    print_json,
    print_table,
    size,
)
from cli.submission import post_job, read_job_file

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="A job, or its first characters.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow it; fail unless it succeeds.")]
LimitOption = Annotated[int, typer.Option(min=1, help="How many, the newest.")]

_EXIT_NOT_SUCCEEDED = 1
_EXIT_INTERRUPTED = 130
_TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


def submit(
    file: Annotated[Path, typer.Argument(help="A job as JSON; its data files may be local paths.")],
    *,
    wait: WaitOption = False,
) -> None:
    """Send a job; with --wait, follow it to its end."""
    with connect() as client:
        job = post_job(client, "/fine_tuning/jobs", read_job_file(file), file.parent)
        typer.echo(job["id"])
        if wait:
            _follow_to_the_end(client, job["id"])
        else:
            _suggest(job["id"], "job {} --wait", "logs -f {}", "cancel {}", "download {}")


def jobs(
    limit: LimitOption = 20,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the newest jobs."""
    with connect() as client:
        newest = list(client.newest("/fine_tuning/jobs", limit))
    if output is Output.JSON:
        print_json(newest)
        return
    columns = ("ID", "STATUS", "MODEL", "SUFFIX", "PROGRESS", "CREATED")
    print_table(columns, [_job_row(job) for job in newest])


def job(
    id: JobArgument,
    *,
    wait: WaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one job; with --wait, follow it to its end first."""
    with connect() as client:
        whole_id = job_id(client, id)
        if wait:
            _follow_to_the_end(client, whole_id)
        found = client.get(job_path(whole_id))
    if output is Output.JSON:
        print_json(found)
    else:
        print_fields(_job_fields(found))


def logs(
    id: JobArgument,
    *,
    follow_on: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on to the job's end; fail unless it succeeds."),
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="Only the last lines, so many.")
    ] = None,
) -> None:
    """Print what the training process wrote."""
    with connect() as client:
        whole_id = job_id(client, id)
        if not follow_on:
            asked = {} if tail is None else {"tail": tail}
            with client.stream(job_path(whole_id, "/logs"), params=asked) as response:
                for text in response.iter_text():
                    typer.echo(text, nl=False)
            return
        lines, last_id = ("", "") if tail is None else _last_lines(client, whole_id, tail)
        typer.echo(lines, nl=False)
        for event in stream(client, whole_id, last_id):
            if event.type == "log":
                typer.echo(event.data["message"], nl=False)
            elif event.type == "end":
                _exit_by(event.data)


def _last_lines(client: Client, job_id: str, count: int) -> tuple[str, str]:
    """About the last lines of a log (a chunk may hold less than one), and the number after them."""
    path = job_path(job_id, "/events")
    chunks = client.get(path, type="log", tail=min(max(1, count), 1000))["data"]
    text = "".join(chunk["message"] for chunk in reversed(chunks))
    lines = text.splitlines(keepends=True)
    last = "".join(lines[len(lines) - min(count, len(lines)) :])
    return last, str(chunks[0]["seq"]) if chunks else ""


def events(
    id: JobArgument,
    limit: LimitOption = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List a job's messages and metrics, the newest last."""
    with connect() as client:
        newest = list(client.newest(job_path(job_id(client, id), "/events"), limit))
    if output is Output.JSON:
        print_json(newest)
        return
    columns = ("TIME", "LEVEL", "TYPE", "MESSAGE")
    rows = [
        (moment(e["created_at"]), e["level"], e["type"], e["message"]) for e in reversed(newest)
    ]
    print_table(columns, rows)


def spec(id: JobArgument) -> None:
    """Print a job as a job file, with nothing left to choose."""
    with connect() as client:
        print_json(client.get(job_path(job_id(client, id), "/spec")))


def rerun(
    id: JobArgument,
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A change, e.g. training.adapter.r=8."),
    ] = None,
    wait: WaitOption = False,
) -> None:
    """Send a job again, with changes; `null` goes back to the default."""
    changes = changes_of(settings or ())
    with connect() as client:
        whole_id = job_id(client, id)
        job = post_job(client, job_path(whole_id, "/rerun"), changes, Path())
        typer.echo(job["id"])
        if wait:
            _follow_to_the_end(client, job["id"])
        else:
            _suggest(job["id"], "job {} --wait", "logs -f {}", "cancel {}")


def checkpoints(
    id: JobArgument,
    output: OutputOption = Output.TABLE,
) -> None:
    """List a job's checkpoints, the newest first."""
    with connect() as client:
        found = list(client.pages(job_path(job_id(client, id), "/checkpoints"), limit=100))
    if output is Output.JSON:
        print_json(found)
        return
    columns = ("ID", "STEP", "LOSS", "VALID LOSS", "SIZE", "CREATED")
    print_table(columns, [_checkpoint_row(checkpoint) for checkpoint in found])


def download(
    id: JobArgument,
    *,
    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint's step or id, instead of the result.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-o", "--output-dir", metavar="DIR", help="Default: its name.")
    ] = None,
) -> None:
    """Fetch the adapter, check its sha256, and unpack it; it goes on where it broke off."""
    with connect() as client:
        found = client.get(job_path(job_id(client, id)))
        params = {}
        if checkpoint is not None:
            saved = client.pages(job_path(found["id"], "/checkpoints"), limit=100)
            params["checkpoint"] = checkpoint_id(saved, checkpoint)
        elif found["status"] in _TERMINAL and not found.get("adapter"):
            raise CliError(f"{found['id']} is {found['status']} and has no adapter")
        target = folder or Path(_folder_name(found, checkpoint))
        remote = download_folder(client, job_path(found["id"], "/adapter"), params, target)
    typer.echo(target)
    more = f" (more in {target}/README.md)" if (target / "README.md").exists() else ""
    hint(f"{size(remote.bytes)}, sha256 {remote.sha256} verified. To use it{more}:")
    hint(f"  {_loading(target)}")


def _loading(folder: Path) -> str:
    """How Python loads what has come: an adapter, or a whole model."""
    if (folder / "adapter_config.json").exists():
        return f'PeftModel.from_pretrained(base_model, "{folder}")'
    from training.card import loader_of  # noqa: PLC0415 - brings the configuration with it

    config = folder / "config.json"
    has_encoder = config.exists() and json.loads(config.read_bytes()).get("is_encoder_decoder")
    return f'{loader_of(has_encoder=bool(has_encoder))}.from_pretrained("{folder}")'


def _folder_name(job: Json, checkpoint: str | None) -> str:
    stem = job.get("suffix") or job["id"][:14]
    return f"{stem}-adapter" + (f"-{checkpoint}" if checkpoint else "")


def _follow_to_the_end(client: Client, whole_id: str) -> None:
    """Show a job until it ends; return only when it succeeded."""
    try:
        with job_view() as view:
            ended = follow(client, whole_id, view)
    except KeyboardInterrupt:
        hint(f"The job goes on. To stop it: tunesmith cancel {whole_id}")
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    hint(how_it_ended(ended))
    if ended["status"] == "succeeded":
        _suggest(whole_id, "download {}")
    _exit_by(ended)


def _exit_by(job: Json) -> None:
    if job["status"] != "succeeded":
        raise typer.Exit(_EXIT_NOT_SUCCEEDED)


def _suggest(whole_id: str, *commands: str) -> None:
    hint("Next:")
    for command in commands:
        hint(f"  tunesmith {command.format(whole_id)}")


def _job_row(job: Json) -> tuple[object, ...]:
    done = progress_numbers(job.get("progress") or {}) if job["status"] == "running" else ""
    return (
        job["id"], job["status"], job["model"], job.get("suffix"), done, moment(job["created_at"])
    )  # fmt: skip


def _job_fields(job: Json) -> list[tuple[str, object]]:
    adapter, error = job.get("adapter") or {}, job.get("error") or {}
    ended, began = job.get("finished_at"), job.get("started_at")
    queue = job.get("queue") or {}
    return [
        ("id", job["id"]),
        ("status", job["status"]),
        ("intent", job.get("intent")),
        ("queue", queue.get("reason")),
        ("phase", job.get("phase") if job["status"] == "running" else None),
        ("progress", progress_numbers(job.get("progress") or {})),
        ("done by", moment(job.get("estimated_finish"))),
        ("model", job["model"]),
        ("training file", job["training_file"]),
        ("fine-tuned", job.get("fine_tuned_model")),
        ("tokens", job.get("trained_tokens")),
        ("created", moment(job["created_at"])),
        ("took", duration(ended - began) if ended and began else None),
        ("attempt", job.get("attempt")),
        ("rerun of", job.get("rerun_of")),
        ("adapter", f"{size(adapter['bytes'])}, sha256 {adapter['sha256']}" if adapter else None),
        ("error", error.get("message")),
        ("remedy", error.get("remedy")),
    ]


def _checkpoint_row(checkpoint: Json) -> tuple[object, ...]:
    metrics = checkpoint["metrics"]
    return (
        checkpoint["id"],
        checkpoint["step_number"],
        number(metrics.get("train_loss")),
        number(metrics.get("valid_loss")),
        size(checkpoint.get("bytes")),
        moment(checkpoint["created_at"]),
    )
