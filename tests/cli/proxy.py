"""A TCP proxy that cuts connections: what a bad network does to a download or a stream."""

import socket
import threading
from contextlib import suppress


class CuttingProxy:
    """Passes bytes on to a server; the first `cuts` replies end after `after_bytes` of them."""

    def __init__(self, port: int, *, cuts: int, after_bytes: int) -> None:
        self._target = ("127.0.0.1", port)
        self._after_bytes = after_bytes
        self.cuts_left = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        self._passing: list[threading.Thread] = []

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._passing):
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._passing += [
                threading.Thread(target=self._pass, args=(client, server, None)),
                threading.Thread(target=self._pass, args=(server, client, self._after_bytes)),
            ]
            for thread in self._passing[-2:]:
                thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket, cut_after: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                passed += len(data)
                if cut_after is not None and passed > cut_after and self.cuts_left:
                    self.cuts_left -= 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
