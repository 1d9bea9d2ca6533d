"""The edge of an export's process: which part of it this one does, and how it ended. Light.

What is pushed was made by a process before, without a token and without a network.
"""

import logging
import os

from training.events import Finished
from training.export_config import ExportConfig
from training.export_spec import ExportSpec
from training.failures import RunError, StopRequested, failure_of
from training.reporting import Reporter
from training.run_directory import RunDirectory, verify, write_atomically

log = logging.getLogger(__name__)


def finish_export(directory: RunDirectory, reporter: Reporter) -> Finished:
    """The end of what `export.json` asks for, whatever it is."""
    asked: ExportConfig | None = None
    try:
        reporter.enter("starting")
        spec = directory.read_export()
        asked = spec.export
        if asked.kind == "hub":
            _push(directory, spec, reporter)
        else:
            from training.export_run import export  # noqa: PLC0415 - takes seconds

            export(directory, spec, reporter)
    except StopRequested:
        return Finished(outcome="interrupted")
    except Exception as error:
        if not isinstance(error, RunError):
            log.exception("The export failed")
        return _failed(error, asked)
    return Finished(outcome="succeeded")


def _push(directory: RunDirectory, spec: ExportSpec, reporter: Reporter) -> None:
    os.environ["HF_HUB_OFFLINE"] = "0"  # read when its library is imported, which is next
    from training.publishing import publish  # noqa: PLC0415

    if not verify(directory.result):
        raise RunError(
            "result_invalid",
            "There is no whole result in this directory to push.",
            fault="infrastructure",
            remedy=f'Export {{"kind": "{spec.export.made}"}} in it first.',
        )
    reporter.enter("pushing")
    pushed = publish(directory.result, spec.export, spec.name)
    write_atomically(directory.pushed_file, pushed.model_dump_json().encode())
    reporter.tell(f"Pushed to {pushed.url}.", **pushed.model_dump())


def _failed(error: Exception, asked: ExportConfig | None) -> Finished:
    if asked is None or asked.repo_id is None:
        return Finished(outcome="failed", failure=failure_of(error))
    from training.publishing import failure_of_push  # noqa: PLC0415

    return Finished(outcome="failed", failure=failure_of_push(error, asked.repo_id))
