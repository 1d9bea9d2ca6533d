"""A JSON file that is one array of rows, cut into its rows as it is read, so that memory is flat.

Only the array itself is understood here: where a row begins and ends. Each is then read like a
line of JSON Lines, by the same strict rules.
"""

import re

from training.json_lines import BOM, RowProblem

ONE_ARRAY = 'One array of objects, such as [{"prompt": "…", "completion": "…"}].'
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = r'[^"\[\]{}]*+'
_IN_ROW = re.compile(f"{_PLAIN}(?:{_STRING}{_PLAIN})*+".encode(), re.DOTALL)
_BETWEEN_ROWS = re.compile(rf'(?:[^"\[\]{{}},]++|{_STRING})*+'.encode(), re.DOTALL)
_OPENING = frozenset({b"[", b"{"})
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


class ArraySplitter:
    """Cuts the bytes of an array at the commas between its elements.

    Of an element beyond `max_row_bytes` a beginning is kept that is beyond it too, so its length
    tells; the rest is dropped as it arrives.

    Attributes:
        problem: What is wrong with the array itself, once something is; nothing is cut any more.
    """

    def __init__(self, max_row_bytes: int) -> None:
        self.problem: RowProblem | None = None
        self._kept_bytes = max_row_bytes + 1
        self._has_begun = False
        self._depth = 0
        self._in_string = False
        self._carried = b""
        self._rows: list[bytes] = []
        self._row = bytearray()
        self._num_rows = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The elements that end in `chunk`; what stands between two commas may be blank."""
        chunk = self._carried + chunk
        self._carried = b""
        place = 0
        while place < len(chunk) and self.problem is None:
            if self._in_string:
                place = self._through_string(chunk, place)
            elif self._depth:
                place = self._through_rows(chunk, place)
            else:
                place = self._outside(chunk, place)
        rows, self._rows = self._rows, []
        return rows

    def finish(self) -> None:
        """Note that nothing comes any more."""
        if self.problem is None and (self._depth or not self._has_begun):
            self.problem = RowProblem("the file ends before its array does", ONE_ARRAY)

    def _outside(self, chunk: bytes, place: int) -> int:
        """Before the array, and behind it, there may be blanks only."""
        found = chunk[place:].lstrip()
        if not self._has_begun:
            if BOM.startswith(found):
                self._carried = found
                return len(chunk)
            found = found.removeprefix(BOM).lstrip()
            if found.startswith(b"["):
                self._has_begun, self._depth = True, 1
                return len(chunk) - len(found) + 1
        if found:
            where = "after" if self._has_begun else "before"
            self.problem = RowProblem(f"there is something {where} the array", ONE_ARRAY)
        return len(chunk)

    def _through_rows(self, chunk: bytes, place: int) -> int:
        """Up to the end of the array, to a string that goes on in the next chunk, or to the end."""
        start = place
        while place < len(chunk):
            pattern = _BETWEEN_ROWS if self._depth == 1 else _IN_ROW
            match = pattern.match(chunk, place)
            assert match is not None
            mark = chunk[match.end() : match.end() + 1]
            place = match.end() + 1
            if mark in _OPENING:
                self._depth += 1
            elif mark == b'"':
                self._in_string = True
                break
            elif mark and not self._goes_on(mark):
                self._cut(chunk[start : place - 1])
                start = place
                if not self._depth:
                    return place
        self._keep(chunk[start:place])
        return place

    def _goes_on(self, mark: bytes) -> bool:
        """Whether the row does behind a comma or a closing bracket."""
        if self._depth == 1 and mark == b"}":
            return True  # one too many for the row, which says so: it does not close an array
        self._depth -= mark != b","
        return self._depth > 1 or (self._depth == 1 and mark != b",")

    def _through_string(self, chunk: bytes, place: int) -> int:
        match = _IN_STRING.match(chunk, place)
        assert match is not None
        end = match.end()
        self._keep(chunk[place:end])
        mark = chunk[end : end + 1]
        if mark == b"\\":  # what it escapes comes with the next chunk
            self._carried = mark
        else:
            self._keep(mark)
            self._in_string = not mark
        return end + 1

    def _cut(self, piece: bytes) -> None:
        self._keep(piece)
        row = bytes(self._row)
        self._row.clear()
        if self._depth or self._num_rows or row.strip():  # else the array is empty
            self._num_rows += 1
            self._rows.append(row)

    def _keep(self, piece: bytes) -> None:
        self._row += piece[: self._kept_bytes - len(self._row)]
