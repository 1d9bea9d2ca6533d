"""The OpenAPI document that is kept in `docs/` is the one that the server answers."""

import json
from pathlib import Path

from api.snapshot import snapshot

_KEPT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_kept_document_is_the_servers() -> None:
    assert json.loads(_KEPT.read_text()) == json.loads(snapshot()), "`make openapi` rewrites it"


def test_every_operation_says_what_it_does() -> None:
    document = json.loads(snapshot())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            assert "200" in operation["responses"], (method, path)
