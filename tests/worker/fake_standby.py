"""A standby that takes over `python -c PROGRAM`, and loads nothing or what a test says.

`python fake_standby.py [LOAD] FOLDER`
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from training.standby import stand_by

STOOD_BY = "this process stood by"


def main() -> None:
    load = compile(" ".join(sys.argv[1:-1]), "<load>", "exec")
    _, program = stand_by(Path(sys.argv[-1]), lambda: exec(load, {}))
    print(STOOD_BY, flush=True)  # noqa: T201
    sys.argv = ["-c"]
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
