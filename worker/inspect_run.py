"""A run that reads the facts of a base model that was added to the catalogue."""

from jobs.service.claims import ModelSource
from jobs.service.endings import Ending
from jobs.states import RunOutcome
from worker.active_run import ActiveRun
from worker.base_models import obtain
from worker.model_facts import read_facts
from worker.relay import relays_of


def inspect(active: ActiveRun, source: ModelSource) -> Ending:
    """Read the facts, after fetching the model when it comes from the hub.

    Raises:
        Stopped: The run was to stop.
        Unusable: The model cannot be had or used.
        Fenced: The run is no longer ours.
        GaveUp: The worker had no time left.
    """
    relays = relays_of(active, on_checkpoint=lambda _: None)
    folder = obtain(active, relays, source)
    return Ending(RunOutcome.SUCCEEDED, facts=read_facts(active, relays, folder))
