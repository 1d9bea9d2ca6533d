"""`tunesmith serve`: the API in a thread, one worker as a child, and both taken down together.

The main thread keeps the worker and hears the signals. The first INT or TERM drains: the API
accepts nothing more, and the worker saves a checkpoint of what it trains. A second one cuts short.
"""

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from api.server import Server
from cli.bootstrap import prepare
from cli.errors import CliError
from cli.render import hint
from cli.worker_process import WorkerProcess
from jobs.settings import Settings, read_settings
from training.run_directory import write_atomically

_LOOK_SECONDS = 0.2
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def serve(host: str, port: int) -> None:
    """Serve until a signal says stop.

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.

    Raises:
        CliError: The address or the data folder is in use or cannot be used, or the API could
            not start.
    """
    settings = read_settings()
    with ExitStack() as stack:
        stack.enter_context(_only_server(settings))
        prepare(settings)
        listener = stack.enter_context(_listener(host, port))
        stop = _Stop()
        api = _Api(settings, listener)
        worker = WorkerProcess()
        url = _url(host, listener)
        api.start()
        stack.enter_context(_announced(settings, url))
        _greet(settings, host, url)
        while not stop.asked and api.is_alive():
            worker.tend()
            time.sleep(_LOOK_SECONDS)
        api.stop()
        _drain(worker, stop, settings)
        api.join()
        if not stop.asked:
            raise CliError("the API ended by itself; its log says why")


class _Stop:
    """How often INT or TERM has asked for the end."""

    def __init__(self) -> None:
        self.asked = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked += 1


class _Api:
    """uvicorn in a thread: there it leaves the signals to us."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._server = Server(settings)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="api", daemon=True
        )

    def start(self) -> None:
        """Return when requests are answered.

        Raises:
            CliError: The application did not start.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise CliError("the API did not start; the lines above say why")
            time.sleep(0.01)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._server.should_exit = True

    def join(self) -> None:
        self._thread.join()


def _drain(worker: WorkerProcess, stop: _Stop, settings: Settings) -> None:
    if worker.has_ended():
        return
    hint("Stopping: the worker saves what it trains (once more to stop at once) …")
    worker.ask_to_stop()
    asked = stop.asked
    deadline = time.monotonic() + settings.drain_seconds + settings.stop_grace_seconds
    while not worker.has_ended():
        if stop.asked > asked:
            asked = stop.asked
            worker.ask_to_stop()
        if time.monotonic() > deadline:
            worker.kill()
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _only_server(settings: Settings) -> Iterator[None]:
    """Hold the data folder: two servers on one would run two workers under one name."""
    with _lock_file(settings.data_dir) as file:
        _lock(file, settings.data_dir)
        yield


def _lock_file(folder: Path) -> IO[str]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (folder / "serve.lock").open("a+")
    except OSError as error:
        raise CliError(
            f"cannot use the data folder {folder}: {error.strerror}; choose another --data-dir"
        ) from None


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CliError(f"another `tunesmith serve` uses {folder.resolve()}") from None


@contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OverflowError:
            raise CliError(f"--port must be 0 to 65535, but is {port}") from None
        except OSError as error:
            raise CliError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
            ) from None
        yield listener


@contextmanager
def _announced(settings: Settings, url: str) -> Iterator[None]:
    """The address in a file beside the key, for the CLI, for as long as it is true."""
    path = settings.server_file
    write_atomically(path, json.dumps({"url": url, "pid": os.getpid()}).encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _url(host: str, listener: socket.socket) -> str:
    """Where this machine reaches it: an address that means "all of them" is no destination."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    port = listener.getsockname()[1]
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _greet(settings: Settings, host: str, url: str) -> None:
    folder = settings.data_dir.resolve()
    hint(f"Tunesmith answers at {url} (documentation: {url}/docs)")
    hint(f"  data       {folder}")
    hint(f"  admin key  {folder / settings.admin_key_file.name} (the CLI reads it by itself)")
    hint("In another terminal:")
    if settings.data_dir.resolve() != Path("data").resolve():
        hint(f"  export TUNESMITH_DATA_DIR={folder}")
    hint("  tunesmith models add NAME FOLDER")
    hint("  tunesmith submit JOB.json --wait")
    hint("Ctrl-C stops it; a job that trains goes on at the next start.")
    if (
        host not in _LOOPBACK
        and settings.allowed_hosts == Settings.model_fields["allowed_hosts"].get_default()
    ):
        hint("Other machines are refused until TUNESMITH_ALLOWED_HOSTS names this host.")
