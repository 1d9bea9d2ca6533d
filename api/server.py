"""The server process: uvicorn, told how this application wants to be served and stopped.

`python -m api.server --host 0.0.0.0 --port 8642` is the API alone, over a database whose schema
is at its head.
"""

import argparse
import resource
import socket
import sys
from collections.abc import Sequence

import uvicorn

from api.app import create_app
from api.services import Services
from jobs.settings import Settings, read_settings

_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 20
_MAX_HEADER_BYTES = 32 << 10
_SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter while others want it. Python's own 5 ms let the thread
that holds the database's write lock wait that long after each of its statements."""


class Server(uvicorn.Server):
    """uvicorn over our application; open streams are ended when it is asked to stop.

    `run` returns after a signal (in the main thread) or after `should_exit` was set; `started`
    tells that requests are answered.
    """

    def __init__(self, settings: Settings, *, host: str = "127.0.0.1", port: int = 8642) -> None:
        sys.setswitchinterval(_SWITCH_SECONDS)
        _allow_many_connections()
        self._app = create_app(settings)
        super().__init__(
            uvicorn.Config(
                self._app,
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                ws="none",
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        services: Services = self._app.state.services
        services.streams.close()
        await super().shutdown(sockets)


def _allow_many_connections() -> None:
    """As many open files as the host lets us have: many shells begin with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal; settings come from the environment."""
    parser = argparse.ArgumentParser(prog="python -m api.server", description="The API alone.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8642)
    asked = parser.parse_args(arguments)
    Server(read_settings(), host=asked.host, port=asked.port).run()


if __name__ == "__main__":
    main()
