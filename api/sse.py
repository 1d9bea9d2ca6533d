"""One server-sent event as bytes."""

import orjson


def frame(event: str, data: object, seq: int | None = None) -> bytes:
    """An event of a stream; `seq` is the position a client comes back with."""
    number = b"" if seq is None else b"id: %d\n" % seq
    return number + b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))
