"""How many processes a job has and how many GPUs: one for each, said in either place or in both."""

from jobs.errors import InvalidRequest
from jobs.requests import JobRequest

_PROCESSES = "training.parallelism.num_processes"


def placed(request: JobRequest) -> JobRequest:
    """The request with both numbers filled in, but for the one GPU that a host may lack.

    Raises:
        InvalidRequest: They do not agree, several processes have no way to share the model, or a
            GPU is needed and none is wanted.
    """
    parallelism, gpus = request.training.parallelism, request.resources.gpus
    asked = parallelism.num_processes
    count = asked or gpus or 1
    if gpus and count != gpus:
        raise InvalidRequest(
            f"{_PROCESSES} = {asked} and resources.gpus = {gpus} do not agree: a process has one "
            "GPU; give the same number, or leave one of them out",
            param=_PROCESSES,
        )
    if count > 1 and parallelism.strategy == "none":
        raise InvalidRequest(
            f"resources.gpus = {gpus}: {count} processes need a way to share the model; set "
            'training.parallelism.strategy to "ddp", "zero2", "zero3" or "fsdp", or gpus to 1',
            param="resources.gpus",
        )
    if gpus is None and count > 1:
        gpus = count
    if gpus == 0 and (reasons := request.training.needs_gpu):
        raise InvalidRequest(
            f"resources.gpus = 0: {' and '.join(f'training.{each}' for each in reasons)} cannot "
            "do without a GPU; set gpus to 1 or more, or leave it out",
            param="resources.gpus",
        )
    training = request.training.model_copy(
        update={"parallelism": parallelism.model_copy(update={"num_processes": count})}
    )
    resources = request.resources.model_copy(update={"gpus": gpus})
    return request.model_copy(update={"training": training, "resources": resources})
