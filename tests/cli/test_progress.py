"""What is shown of a job that is followed where no bar can move."""

import pytest

from cli.progress import job_view


def test_a_line_for_every_phase_and_again_only_while_steps_are_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("cli.progress.time.monotonic", lambda: now)
    with job_view() as view:
        for phase, step in [("queued", 0), ("starting", 0), ("training", 1), ("training", 2)]:
            for _ in range(3):
                now += 60
                view.show(phase, {"step": step, "total_steps": 3} if step else {})
        now += 0.001
        view.show("training", {"step": 2, "total_steps": 3})
        view.show("training", {"step": 3, "total_steps": 3})
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["queued", "starting"] + [
        f"training  step {step}/3" for step in (1, 1, 1, 2, 2, 2, 3)
    ]
