"""The recipe of `python -m training run`, in a run directory made for it."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.packed_rows import attending_by_document, documents_of
from benchmarks.training_task import NUM_COMPARED, Clock, Figures, Task, run_engine
from training.events import EventWriter, Phase, Progress
from training.libraries import load_libraries
from training.loss import HEADS
from training.reporting import Reporter
from training.run import run
from training.run_directory import RunDirectory
from training.stopping import StopSignal


class _Timed(Reporter):
    """Tells the clock as well."""

    def __init__(self, writer: EventWriter, clock: Clock) -> None:
        super().__init__(writer)
        self._clock = clock

    def enter(self, phase: Phase) -> None:
        super().enter(phase)
        if phase == "training":
            self._clock.on_train_begin()

    def advance(self, progress: Progress, *, urgent: bool = False) -> None:
        super().advance(progress, urgent=urgent)
        self._clock.on_step_end()


def train(task: Task) -> Figures:
    load_libraries()
    # On a GPU, where the peak of memory counts, there is one model only.
    losses = [] if torch.cuda.is_available() else _losses(task)
    directory, clock = RunDirectory(Path(task.folder)), Clock()
    reporter = _Timed(EventWriter(directory.events_file), clock)
    finished = run(directory, directory.read_spec(), None, reporter, StopSignal(directory))
    return clock.figures() | {"losses": losses, "trained_tokens": finished.trained_tokens}


@torch.no_grad()
def _losses(task: Task) -> list[float]:
    """Of single documents, as a run computes them."""
    model = task.adapted().eval()
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    collate = attending_by_document(base)
    batches = [collate([document]) for document in documents_of(task)[:NUM_COMPARED]]
    sums = [HEADS["streamed"](model, batch).loss_sum for batch in batches]
    return [
        float(loss_sum) / len(batch["targets"])
        for loss_sum, batch in zip(sums, batches, strict=True)
    ]


if __name__ == "__main__":
    run_engine(train)
