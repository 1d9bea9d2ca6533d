"""Tells a file that is no text at all by its beginning, before its rows are called wrong."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"%PDF": "PDF",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"SQLite format 3\x00": "SQLite",
    b"\x7fELF": "program",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_CONTROL_BYTES = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})
_MIN_JUDGED_BYTES = 16
HEAD_BYTES = 1024


class BinaryProbe:
    """Looks at the first KiB of a file that arrives in chunks of any size."""

    def __init__(self) -> None:
        self._head = bytearray()

    def feed(self, chunk: bytes) -> str | None:
        """The kind of a binary file, such as `gzip`, once its head is there; else None."""
        missing = HEAD_BYTES - len(self._head)
        if not missing:
            return None
        self._head += chunk[:missing]
        return binary_kind(bytes(self._head)) if len(self._head) == HEAD_BYTES else None

    def finish(self) -> str | None:
        """The same for a file that is shorter than a head."""
        return binary_kind(bytes(self._head)) if len(self._head) < HEAD_BYTES else None

    @property
    def saw_anything(self) -> bool:
        return bool(self._head)


def binary_kind(head: bytes) -> str | None:
    """What a file with this head is, if it is no text.

    By its magic number, or because more than a tenth of it are control characters.

    A stray control character, or a very short file, is the business of the row it stands in.
    """
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    controls = len(head) - len(head.translate(None, _CONTROL_BYTES))
    if len(head) >= _MIN_JUDGED_BYTES and controls * 10 > len(head):
        return "binary"
    return None
