"""The OpenAPI document as a text, to be kept beside the code: `python -m api.snapshot`.

It depends on no setting, and nothing is opened for it.
"""

import json
import sys

from api.app import create_app
from jobs.settings import Settings


def snapshot() -> str:
    """Indented JSON in the order of the routes."""
    document = create_app(Settings()).openapi()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(snapshot())
