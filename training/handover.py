"""What a training process that stands by is told to become: one line from its worker. Light.

The line is all of it, secrets included, and goes over a pipe: nothing of it is on a command line
or on disk.
"""

from pydantic import BaseModel, ConfigDict

READY = "ready"
"""A file in the folder of a standby: there while it waits, gone once it has taken over."""


class Handover(BaseModel):
    """What the process would have been started with.

    Attributes:
        arguments: Of `python -m training`.
        env: The whole environment.
        directory: Its working directory.
        output: The file its standard output and error are appended to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    arguments: tuple[str, ...]
    env: dict[str, str]
    directory: str
    output: str

    def as_line(self) -> bytes:
        return self.model_dump_json().encode() + b"\n"


def parse_line(line: bytes) -> Handover:
    return Handover.model_validate_json(line)
