"""What every part of a run needs to know of it; apart, so that no part has to know the others."""

from dataclasses import dataclass, field

from training.config import TrainingConfig
from training.distributed import Crew
from training.reporting import Reporter
from training.run_directory import RunDirectory
from training.stopping import StopSignal
from training.trackers import Trackers


@dataclass(frozen=True)
class RunContext:
    """One run.

    Attributes:
        config: Resolved: nothing in it is left to choose.
        attempt: Noted in the manifest of every checkpoint.
        crew: Who trains together.
    """

    directory: RunDirectory
    config: TrainingConfig
    seed: int
    attempt: int
    reporter: Reporter
    stop: StopSignal
    trackers: Trackers
    crew: Crew = field(default_factory=Crew)
