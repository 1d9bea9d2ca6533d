"""The command line of training: one process edge, where every error becomes an event or a line.

    python -m training run DIR                     0 succeeded, 3 stopped on request, 1 failed
    python -m training standby FOLDER              waits until it is told to do one of the others
    python -m training export DIR                  makes what DIR/export.json says; exits as run
    python -m training check FILE [-o REPORT]      what a data file holds, as JSON; 4 if it has
                                                   rows that are refused, 1 if it was not read
    python -m training inspect MODEL [-o FILE]     facts of a model folder, as JSON
    python -m training convert GGUF OUT            a model folder from a GGUF file

Heavy libraries are imported inside the chosen command; a TERM is listened to before that.
"""

import argparse
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

from training.check_process import (
    MAX_CPU_SECONDS,
    MAX_MEMORY_BYTES,
    Budget,
    NotChecked,
    check,
    in_words,
)
from training.data_config import FORMAT_NAMES
from training.data_files import Limits
from training.distributed import Crew, crew_of_process, was_launched
from training.events import EventWriter, Finished
from training.export_process import finish_export
from training.failures import RunError, StopRequested, failure_of
from training.file_check import MAX_ERRORS, MAX_LINE_BYTES, MAX_ROWS
from training.launch import launch, write_last_word
from training.libraries import load_ahead, load_libraries
from training.packages import leave_out
from training.reporting import Reporter
from training.resumption import rewind
from training.run_directory import RunDirectory, write_atomically
from training.standby import stand_by
from training.stopping import StopSignal

log = logging.getLogger("training")

SUCCEEDED, FAILED, STOPPED, REFUSED = 0, 1, 3, 4


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _prepare_process()
    commands = {
        "run": _run,
        "standby": _standby,
        "export": _export,
        "check": _check,
        "inspect": _inspect,
        "convert": _convert,
    }
    return commands[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do what DIR/run.json says, or go on with it")
    run.add_argument("directory", type=Path, metavar="DIR")
    standby = commands.add_parser("standby", help="load what a run needs, and wait for one")
    standby.add_argument("folder", type=Path, metavar="FOLDER")
    export = commands.add_parser("export", help="make what DIR/export.json says, or push it")
    export.add_argument("directory", type=Path, metavar="DIR")
    _add_check(commands.add_parser("check", help="what a data file holds, as JSON"))
    inspect = commands.add_parser("inspect", help="facts of a model folder, as JSON")
    inspect.add_argument("model", type=Path, metavar="MODEL_FOLDER")
    inspect.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of stdout")
    convert = commands.add_parser("convert", help="make a model folder from a GGUF file")
    convert.add_argument("gguf", type=Path, metavar="GGUF_FILE")
    convert.add_argument("target", type=Path, metavar="OUT_FOLDER")
    return parser


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("-o", "--output", type=Path, metavar="REPORT", help="instead of stdout")
    check.add_argument("--format", choices=FORMAT_NAMES, help="of every row; else as detected")
    numbers = {
        "--max-rows": (MAX_ROWS, "rows of the file"),
        "--max-row-bytes": (MAX_LINE_BYTES, "bytes of a row"),
        "--max-errors": (MAX_ERRORS, "errors in the report; all are counted"),
        "--max-memory-bytes": (MAX_MEMORY_BYTES, "bytes of memory, beside the file itself"),
        "--max-cpu-seconds": (MAX_CPU_SECONDS, "seconds of processor time"),
    }
    for flag, (default, words) in numbers.items():
        check.add_argument(flag, type=int, default=default, metavar="N", help=words)


def _prepare_process() -> None:
    """Plain lines in the log, no progress bars, and no network."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ[name] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    # PEFT calls what the newest transformers has renamed; nothing a run's owner can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # accelerate and DeepSpeed call what the newest torch has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run(options: argparse.Namespace) -> int:
    directory = RunDirectory(options.directory.resolve())
    if was_launched():
        return _take_part(directory)
    stop = StopSignal(directory)
    stop.listen()
    writer = EventWriter(directory.events_file)
    reporter = Reporter(writer)
    finished = _finish(directory, reporter, stop)
    directory.release_reserve()
    if isinstance(finished, int):
        return _as_it_ended(finished)
    reporter.emit(finished)
    writer.close()
    return _exit_code(finished)


def _take_part(directory: RunDirectory) -> int:
    """One of the processes of a run: the first tells of it; the last word is its launcher's."""
    crew = crew_of_process()
    stop = StopSignal(directory, crew.highest)
    stop.listen()
    if not crew.is_first:
        logging.getLogger().setLevel(logging.ERROR)
    writer = EventWriter(directory.events_file if crew.is_first else Path(os.devnull))
    finished = _finish(directory, Reporter(writer), stop, crew)
    stop.ignore()
    assert isinstance(finished, Finished)
    write_last_word(directory, crew.rank, finished)
    writer.close()
    # What all agreed on is no failure, for which the launcher would end the others.
    return SUCCEEDED if stop.is_agreed else _exit_code(finished)


def _exit_code(finished: Finished) -> int:
    return {"succeeded": SUCCEEDED, "failed": FAILED}.get(finished.outcome, STOPPED)


def _as_it_ended(code: int) -> int:
    """An exit code to leave with; a negative one is the signal that killed a process of the run."""
    if code < 0:
        if -code != signal.SIGKILL:  # which nobody can handle
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _finish(
    directory: RunDirectory, reporter: Reporter, stop: StopSignal, crew: Crew | None = None
) -> Finished | int:
    """The end of the run, whatever it is; an exit code if its processes left without a word."""
    try:
        if crew is None:
            directory.reserve_last_words()
        spec = directory.read_spec()
        parallelism = spec.training.parallelism
        if crew is None and parallelism.strategy != "none":
            return launch(directory, parallelism.count)
        checkpoint = rewind(directory, spec, reporter)
        reporter.enter("starting")
        load_libraries()
        if not spec.training.parallelism.strategy.startswith("zero"):
            leave_out("deepspeed")  # accelerate imports it wherever it is installed
        from training.run import run  # noqa: PLC0415 - takes seconds

        return run(directory, spec, checkpoint, reporter, stop, crew or Crew())
    except StopRequested as request:
        saved = request.reason in {"pause", "drain"}
        return Finished(outcome="interrupted" if saved else "cancelled", step=reporter.step)
    except Exception as error:
        if not isinstance(error, RunError):
            log.exception("The run failed")
        return Finished(outcome="failed", step=reporter.step, failure=failure_of(error))


def _standby(options: argparse.Namespace) -> int:
    return main(list(stand_by(options.folder, load_ahead)))


def _export(options: argparse.Namespace) -> int:
    directory = RunDirectory(options.directory.resolve())
    StopSignal(directory).listen()
    writer = EventWriter(directory.events_file)
    reporter = Reporter(writer)
    finished = finish_export(directory, reporter)
    reporter.emit(finished)
    writer.close()
    return _exit_code(finished)


def _check(options: argparse.Namespace) -> int:
    limits = Limits(options.max_row_bytes, options.max_rows, options.max_errors)
    budget = Budget(options.max_memory_bytes, options.max_cpu_seconds)
    try:
        report = check(options.file, options.output, options.format, limits, budget)
    except NotChecked as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    sys.stderr.write(f"{in_words(options.file, report)}\n")
    return REFUSED if report.num_errors else SUCCEEDED


def _inspect(options: argparse.Namespace) -> int:
    from training.inspection import inspect_model  # noqa: PLC0415 - transformers takes seconds

    try:
        facts = inspect_model(options.model).model_dump_json(indent=2)
        from training.model import read_tokenizer  # noqa: PLC0415 - as does this

        read_tokenizer(options.model)
        if options.output:
            write_atomically(options.output, facts.encode())
        else:
            sys.stdout.write(f"{facts}\n")
    except (RunError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return SUCCEEDED


def _convert(options: argparse.Namespace) -> int:
    from training.conversion import convert_gguf  # noqa: PLC0415 - takes seconds

    try:
        convert_gguf(options.gguf, options.target)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return SUCCEEDED


if __name__ == "__main__":
    sys.exit(main())
