"""The one Celery task. It names no work: whoever hears it looks into the database."""

from collections.abc import Callable
from typing import Any

from celery import Task, shared_task
from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default
from kombu.exceptions import ContentDisallowed, DecodeError

from jobs.queue import WAKE


@shared_task(  # type: ignore[untyped-decorator]
    name=WAKE, bind=True, ignore_result=True, Strategy="worker.tasks:tolerant"
)
def wake(task: Task) -> None:
    task.app.supervisor.wake()


def tolerant(*args: Any, **options: Any) -> Callable[..., None]:  # noqa: ANN401 - Celery's own
    """How Celery takes a message of this task, for messages of anyone: none must end the worker."""
    take = default(*args, **options)

    def take_or_refuse(*message: object, **named: object) -> None:
        try:
            take(*message, **named)
        except (ContentDisallowed, DecodeError):
            raise
        except Exception as error:  # whatever a forged message makes of Celery
            raise InvalidTaskError(repr(error)) from error

    return take_or_refuse
