"""The command line of training: one process edge, where every error becomes an event or a line.

    python -m training run DIR                     0 succeeded, 3 stopped on request, 1 failed
    python -m training inspect MODEL [-o FILE]     facts of a model folder, as JSON
    python -m training convert GGUF OUT            a model folder from a GGUF file

Heavy libraries are imported inside the chosen command; a TERM is listened to before that.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from training.events import EventWriter, Finished
from training.failures import RunError, StopRequested, failure_of
from training.reporting import Reporter
from training.resumption import rewind
from training.run_directory import RunDirectory, write_atomically
from training.stopping import StopSignal

log = logging.getLogger("training")

SUCCEEDED, FAILED, STOPPED = 0, 1, 3


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _prepare_process()
    commands = {"run": _run, "inspect": _inspect, "convert": _convert}
    return commands[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do what DIR/run.json says, or go on with it")
    run.add_argument("directory", type=Path, metavar="DIR")
    inspect = commands.add_parser("inspect", help="facts of a model folder, as JSON")
    inspect.add_argument("model", type=Path, metavar="MODEL_FOLDER")
    inspect.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of stdout")
    convert = commands.add_parser("convert", help="make a model folder from a GGUF file")
    convert.add_argument("gguf", type=Path, metavar="GGUF_FILE")
    convert.add_argument("target", type=Path, metavar="OUT_FOLDER")
    return parser


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
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run(options: argparse.Namespace) -> int:
    directory = RunDirectory(options.directory.resolve())
    stop = StopSignal(directory)
    stop.listen()
    writer = EventWriter(directory.events_file)
    reporter = Reporter(writer)
    finished = _finish(directory, reporter, stop)
    reporter.emit(finished)
    writer.close()
    return {"succeeded": SUCCEEDED, "failed": FAILED}.get(finished.outcome, STOPPED)


def _finish(directory: RunDirectory, reporter: Reporter, stop: StopSignal) -> Finished:
    """The end of the run, whatever it is."""
    try:
        spec = directory.read_spec()
        checkpoint = rewind(directory, spec, reporter)
        reporter.enter("starting")
        from training.run import run  # noqa: PLC0415 - takes seconds

        return run(directory, spec, checkpoint, reporter, stop)
    except StopRequested as request:
        saved = request.reason in {"pause", "drain"}
        return Finished(outcome="interrupted" if saved else "cancelled", step=reporter.step)
    except Exception as error:
        if not isinstance(error, RunError):
            log.exception("The run failed")
        return Finished(outcome="failed", step=reporter.step, failure=failure_of(error))


def _inspect(options: argparse.Namespace) -> int:
    from training.inspection import inspect_model  # noqa: PLC0415 - transformers takes seconds

    try:
        facts = inspect_model(options.model).model_dump_json(indent=2)
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
