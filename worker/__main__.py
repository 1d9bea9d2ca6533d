"""Starts a worker process, until TERM or Ctrl-C: `python -m worker`."""

import logging
import sys

from worker.app import app


def main() -> int:
    """Work; returns the exit code, 0 after a drain."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    worker = app.Worker(
        without_mingle=True, without_gossip=True, without_heartbeat=True, quiet=True
    )
    worker.start()
    return worker.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
