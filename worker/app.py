"""The Celery app of a worker process: `python -m worker`, or `celery -A worker.app worker`.

Celery is extended in its own way, by a bootstep: the supervisor starts before messages are
consumed and drains after they no longer are.
"""

import logging
import signal
from types import FrameType
from typing import Any

from celery import bootsteps

from jobs.queue import make_celery_app
from jobs.settings import read_settings
from worker.lock import NameTaken
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)


class SupervisorStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Ties the supervisor's life to the worker's; runs in its main thread."""

    requires = ("celery.worker.components:Pool",)

    def create(self, worker: Any) -> Supervisor:  # noqa: ANN401 - Celery's, untyped
        supervisor: Supervisor = worker.app.supervisor
        return supervisor

    def start(self, worker: Any) -> None:  # noqa: ANN401
        # Ctrl-C drains like TERM; by default Celery would exit with an error afterwards.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
        try:
            super().start(worker)
        except NameTaken as error:
            log.critical("%s", error)
            raise SystemExit(1) from None

    def stop(self, worker: Any) -> None:  # noqa: ANN401
        """Drain; a second TERM meanwhile ends all patience."""

        def hurry(_number: int, _frame: FrameType | None) -> None:
            self.obj.hurry()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, hurry)
        super().stop(worker)

    def terminate(self, worker: Any) -> None:  # noqa: ANN401
        self.obj.hurry()
        super().stop(worker)


settings = read_settings()
app = make_celery_app(settings)
app.supervisor = Supervisor(settings)
app.steps["worker"].add(SupervisorStep)
