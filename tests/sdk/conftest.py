"""Both OpenAI clients, one after the other, against one server and one worker.

The older one lies outside of the import path (`tests/sdk/older.txt`, `make setup`), so that a
process has the one or the other: during a test the modules of one stand where those of the other
were.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.service import Service, Team

OLDER = "1.109.1"
Connect = Callable[[str], Any]


class Client:
    """An installed version of the client."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._modules: dict[str, Any] = {}

    @contextmanager
    def imported(self) -> Iterator[Any]:
        """The module `openai` of this version."""
        others = _take_out()
        sys.modules.update(self._modules)
        if self._folder is not None:
            sys.path.insert(0, str(self._folder))
        try:
            yield import_module("openai")
        finally:
            if self._folder is not None:
                sys.path.remove(str(self._folder))
            self._modules = _take_out()
            sys.modules.update(others)


def _take_out() -> dict[str, Any]:
    """Forget the modules of the client; returns them."""
    names = [name for name in sys.modules if name.partition(".")[0] == "openai"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("sdk")
    made = Service(folder)
    try:
        made.start_worker()
        made.add_model(folder / "model")
        made.add_model(folder / "model", "meta/tiny-v1.0")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session", params=[OLDER, "newest"])
def version(request: pytest.FixtureRequest) -> Client:
    older = request.param == OLDER
    client = Client(Path(sys.prefix) / "sdk" / f"openai-{OLDER}" if older else None)
    with client.imported() as module:
        assert (module.__version__ == OLDER) == older, "make setup installs both clients"
    return client


@pytest.fixture(scope="session")
def pooled(version: Client, service: Service) -> Iterator[Any]:
    """A client to make others from, so that all share its pool of connections."""
    with version.imported() as module:
        client = module.OpenAI(api_key="none", base_url=service.url)
    with client:
        yield client


@pytest.fixture
def openai(version: Client) -> Iterator[Any]:
    """The module, for a test to take errors from."""
    with version.imported() as module:
        yield module


@pytest.fixture
def connect(openai: Any, pooled: Any) -> Connect:
    """A stock client with the given key."""
    return lambda secret: pooled.with_options(api_key=secret)


@pytest.fixture
def team(service: Service) -> Team:
    return service.team()


@pytest.fixture
def client(connect: Connect, team: Team) -> Any:
    """The client of an admin of a new project."""
    return connect(team.secret)
