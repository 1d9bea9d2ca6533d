"""The one Celery task. It names no work: whoever hears it looks into the database."""

from celery import Task, shared_task

from jobs.bells import WAKE


@shared_task(name=WAKE, bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
def wake(task: Task) -> None:
    task.app.supervisor.wake()
