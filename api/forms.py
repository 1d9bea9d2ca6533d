"""What a multipart form may hold, one file and some short fields, taken piece by piece."""

from collections.abc import Mapping

from api.multipart import Closed, Opened, Piece
from jobs.errors import InvalidRequest, TooLarge
from jobs.service.files import plain_filename

Fields = Mapping[str, tuple[str, ...] | None]
"""The fields of a form, with the values that each accepts; None: any short text."""

_MAX_FIELD_BYTES = 1024


class Form:
    """What has arrived of one form. Cheap to feed, for the event loop.

    Args:
        file: The name of the part that holds the file.
        fields: The other parts that are taken.
        max_bytes: The most that the file may have.

    Attributes:
        filename: The file's plain name, once its part has begun.
        num_pending_bytes: What has arrived of the file since the last block.
    """

    def __init__(self, file: str, fields: Fields, max_bytes: int) -> None:
        self._file = file
        self._fields = fields
        self._max_bytes = max_bytes
        self._part: Opened | None = None
        self._values: dict[str, bytes] = {}
        self._pending: list[bytes] = []
        self._num_bytes = 0
        self.filename: str | None = None
        self.num_pending_bytes = 0

    def take(self, piece: Piece) -> None:
        """Sort a piece of the form.

        Raises:
            InvalidRequest: The form holds what is not taken here.
            TooLarge: The file is over its limit.
        """
        if isinstance(piece, Opened):
            self._open(piece)
        elif isinstance(piece, Closed):
            self._close()
        elif self._part is not None and self._part.filename is not None:
            self._take_file_bytes(piece)
        elif self._part is not None:
            self._take_field_bytes(self._part.name, piece)

    def next_block(self) -> bytes:
        """What has arrived of the file since the last block."""
        block = b"".join(self._pending)
        self._pending, self.num_pending_bytes = [], 0
        return block

    def value(self, name: str) -> str | None:
        """What has arrived of a field; None where it has not begun."""
        raw = self._values.get(name)
        return None if raw is None else raw.decode("utf-8", "replace")

    def require_file(self) -> str:
        """The file's name; raises InvalidRequest where no file was sent."""
        if self.filename is None:
            raise missing(self._file, "the file itself, as a part with a filename")
        return self.filename

    def _open(self, part: Opened) -> None:
        self._part = part
        if part.filename is None:
            self._open_field(part.name)
        elif part.name != self._file or self.filename is not None:
            raise InvalidRequest(
                f"{part.name!r}: one file is taken, in the part named {self._file!r}",
                param=part.name or None,
            )
        else:
            self.filename = plain_filename(part.filename, param=self._file)

    def _open_field(self, name: str) -> None:
        if name == self._file:
            raise InvalidRequest(
                f"{name}: send it as a file with a name, as `curl -F {name}=@data.jsonl` does",
                param=name,
            )
        if name not in self._fields:
            raise InvalidRequest(
                f"{name!r}: unknown field; the accepted ones are "
                f"{', '.join([self._file, *self._fields])}",
                param=name or None,
                code="unknown_key",
            )
        if name in self._values:
            raise InvalidRequest(f"{name} is given twice; give it once", param=name)
        self._values[name] = b""

    def _close(self) -> None:
        part, self._part = self._part, None
        if part is not None and part.filename is None:
            self._require_choice(part.name, whole=True)

    def _take_file_bytes(self, data: bytes) -> None:
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise too_large(self._file, self._max_bytes)
        self._pending.append(data)
        self.num_pending_bytes += len(data)

    def _take_field_bytes(self, name: str, data: bytes) -> None:
        self._values[name] += data
        if len(self._values[name]) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"{name} is longer than {_MAX_FIELD_BYTES} bytes", param=name)
        self._require_choice(name, whole=False)

    def _require_choice(self, name: str, *, whole: bool) -> None:
        """Told at once: what follows may be a file of gigabytes."""
        choices, value = self._fields[name], self.value(name)
        assert value is not None
        if choices is None or value in choices:
            return
        if whole or not any(choice.startswith(value) for choice in choices):
            raise InvalidRequest(
                f"{name}: {value!r} is not one of {', '.join(choices)}",
                param=name,
                code="invalid_value",
            )


def missing(field: str, accepted: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field} is required: send {accepted}", param=field, code="missing_field"
    )


def too_large(field: str, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"{field}: it is over {max_bytes} bytes, the most that is accepted", param=field
    )
