"""A worker process is light, and knows its host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.worker.deployment import ROOT
from worker.gpus import devices_to_offer
from worker.lock import NameTaken, hold_name


def test_no_model_library_is_loaded_and_memory_stays_small(tmp_path: Path) -> None:
    program = (
        "import json, re, sys, worker.app, worker.tasks\n"
        "heavy = {'torch', 'transformers', 'peft', 'fastapi', 'huggingface_hub'}\n"
        # Not ru_maxrss: a child begins with the peak of the process that started it.
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "print(json.dumps([sorted(heavy & set(sys.modules)), peak]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"TUNESMITH_DATA_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=60,
    )
    heavy, peak_kilobytes = json.loads(found.stdout)
    assert heavy == []
    assert peak_kilobytes < 150 << 10


@pytest.mark.parametrize(
    ("visible", "devices"), [("0,2", ("0", "2")), ("GPU-ab", ("GPU-ab",)), ("", ()), ("-1", ())]
)
def test_visible_devices_are_offered(
    monkeypatch: pytest.MonkeyPatch, visible: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices_to_offer(Settings()) == devices
    assert devices_to_offer(Settings(worker_gpus=3)) == ("0", "1", "2")


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
