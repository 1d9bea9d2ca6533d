"""multipart/form-data as it arrives: pieces of parts, never a whole file in memory or on disk."""

from collections.abc import Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import UnsupportedMediaType
from jobs.errors import InvalidRequest

_MAX_PARTS = 16
_MAX_PREAMBLE_BYTES = 4096


@dataclass(frozen=True)
class Opened:
    """A part begins; `filename` where it is a file."""

    name: str
    filename: str | None


@dataclass(frozen=True)
class Closed:
    """The part that was opened last is complete."""


Piece = Opened | bytes | Closed


class FormReader:
    """Turns chunks of a body into pieces of its parts.

    Args:
        content_type: The request's header, which holds the boundary.

    Raises:
        UnsupportedMediaType: The body is declared as something else.
    """

    def __init__(self, content_type: str | None) -> None:
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._open,
                "on_part_data": self._data,
                "on_part_end": self._close,
                "on_end": self._end,
            },
        )
        self._pieces: list[Piece] = []
        self._field = self._value = b""
        self._headers: dict[str, bytes] = {}
        self._num_parts = 0
        self._preamble_bytes = 0
        self.ended = False

    def feed(self, chunk: bytes) -> list[Piece]:
        """The pieces that `chunk` completes; raises InvalidRequest when it is no such form."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(
                f"the body is not a multipart form: {error}", code="invalid_form"
            ) from None
        if not self._num_parts:
            self._preamble_bytes += len(chunk)
            if self._preamble_bytes > _MAX_PREAMBLE_BYTES:
                raise InvalidRequest("the body does not begin with its boundary")
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS} parts")
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value
        self._field = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        filename = options.get(b"filename")
        self._pieces.append(
            Opened(
                name=_text(options, b"name"),
                filename=None if filename is None else _text(options, b"filename"),
            )
        )

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(bytes(data[start:end]))

    def _close(self) -> None:
        self._pieces.append(Closed())

    def _end(self) -> None:
        self.ended = True


def _text(options: Mapping[bytes, bytes], key: bytes) -> str:
    try:
        return options.get(key, b"").decode()
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"the {key.decode()} of a part is not UTF-8", param="file", code="invalid_form"
        ) from None


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UnsupportedMediaType(
            f"content-type: {content_type or 'none'} is not read here; send multipart/form-data "
            "with a boundary, as `curl -F file=@data.jsonl -F purpose=fine-tune` does",
            param="content-type",
        )
    return boundary
