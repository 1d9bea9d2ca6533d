"""A real worker process in all but the training it starts: `python -m tests.worker.fake_worker`.

The mode of the fake training is read from a file at each start, so that a test can change it.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.worker import fake_training
from worker import __main__ as worker_main
from worker.app import app, settings
from worker.launchers.base import RunHandle
from worker.launchers.local import LocalLauncher
from worker.supervisor import Supervisor


class FakeTrainingLauncher:
    """Starts the fake in place of `python -P -m training`."""

    def start(self, command: Sequence[str], env: Mapping[str, str], directory: Path) -> RunHandle:
        if command[1:4] == ["-P", "-m", "worker.fetch"]:
            return LocalLauncher().start(command, env, directory)
        assert command[1:4] == ["-P", "-m", "training"], command
        mode = settings.data_dir.joinpath("mode").read_text()
        faked = [command[0], fake_training.__file__, mode, *command[4:]]
        return LocalLauncher().start(faked, env, directory)


if __name__ == "__main__":
    app.supervisor = Supervisor(settings, FakeTrainingLauncher())
    sys.exit(worker_main.main())
