"""What a worker finds out about its host, and that it is alone there under its name."""

from pathlib import Path

import pytest

from jobs.settings import Settings
from worker.environment import training_environment
from worker.gpus import devices_to_offer
from worker.lock import NameTaken, hold_name


@pytest.mark.parametrize(
    ("visible", "devices"), [("0,2", ("0", "2")), ("GPU-ab", ("GPU-ab",)), ("", ()), ("-1", ())]
)
def test_visible_devices_are_offered(
    monkeypatch: pytest.MonkeyPatch, visible: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices_to_offer(Settings()) == devices
    assert devices_to_offer(Settings(worker_gpus=1)) == devices[:1]


def test_as_many_devices_as_it_was_told_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices_to_offer(Settings(worker_gpus=3)) == ("0", "1", "2")
    assert devices_to_offer(Settings(worker_gpus=0)) == ()


def test_training_counts_devices_in_the_order_of_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    environment = training_environment("tag", tmp_path, ("1",))
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_devices_are_counted_by_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert devices_to_offer(Settings()) == ("0", "1")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert devices_to_offer(Settings()) == ()


def test_a_name_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.lock._PATIENCE_SECONDS", 0.2)
    with hold_name(tmp_path), pytest.raises(NameTaken, match="TUNESMITH_DATA_DIR"):
        hold_name(tmp_path)
    hold_name(tmp_path).close()
