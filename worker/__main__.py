"""Starts a worker process, until TERM or Ctrl-C: `python -m worker`."""

import logging
import sys
import warnings

from celery.platforms import SecurityWarning

from worker.app import app


def main() -> int:
    """Work; returns the exit code: 0 after a drain."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("celery.worker.strategy", "celery.app.trace"):  # two lines for each bell
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Celery warns root about pickled messages, of which it takes none here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        loglevel="INFO",
        quiet=True,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
    )
    worker.start()
    return 1 if app.supervisor.failed else worker.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
