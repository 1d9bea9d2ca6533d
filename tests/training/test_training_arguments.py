"""Our configuration in the words of transformers."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from tests.training.runs import prepare
from training.config import TrainingConfig, resolved
from training.context import RunContext
from training.events import EventWriter
from training.reporting import Reporter
from training.stopping import StopSignal
from training.trackers import Trackers
from training.trainer import training_arguments


def _sees_two_gpus(arguments: TrainingArguments) -> torch.device:
    """As transformers looks for them, in a process that was not started by a launcher."""
    arguments._n_gpu = 2
    return torch.device("cpu")


def test_a_process_alone_is_not_spread_over_all_gpus(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(_sees_two_gpus))
    directory = prepare(tmp_path, tiny_model)
    config = resolved(TrainingConfig(), num_rows=1, context_length=256)
    with closing(EventWriter(directory.events_file)) as writer:
        reporter, stop = Reporter(writer), StopSignal(directory)
        context = RunContext(directory, config, 7, 1, reporter, stop, Trackers([]))
        arguments = training_arguments(context, 10, has_idle=False)
    assert arguments._n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
