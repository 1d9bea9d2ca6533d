"""The command line against a real API over a real database, in this process and without a worker.

Jobs stay queued here until a test moves them with the verbs that a worker would use.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.server import Server
from cli.main import main
from jobs.database import Database
from jobs.schema import upgrade
from tests.jobs.world import World, settings_in


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Tunesmith = Callable[..., Result]


@dataclass(frozen=True)
class Deployment:
    url: str
    world: World


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    settings = settings_in(tmp_path_factory.mktemp("served"))
    upgrade(settings.resolved_database_url)
    database = Database(settings.resolved_database_url)
    world = World(database, settings)
    world.model()
    server = Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Deployment(f"http://127.0.0.1:{listener.getsockname()[1]}", world)
        server.should_exit = True
        thread.join()
    database.close()


@pytest.fixture
def tunesmith(
    served: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Tunesmith:
    """Run one command as a shell would, with standard output in a pipe."""
    monkeypatch.setenv("TUNESMITH_URL", served.url)
    monkeypatch.setenv("TUNESMITH_API_KEY", served.world.secret)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["tunesmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        code = exited.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
