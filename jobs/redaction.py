"""Keeps secrets out of stored logs and of what is shown."""

import re
from collections.abc import Sequence

_HIDDEN = "[redacted]"
_NOTHING = r"(?!)"
_PATTERNS = (
    r"hf_[A-Za-z0-9]{16,}",
    r"sk-[A-Za-z0-9_-]{16,}",
    r"gh[pousr]_[A-Za-z0-9]{20,}",
    r"AKIA[A-Z0-9]{16}",
    r"(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}",
    r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",
)


class Redactor:
    """Replaces what is, or looks like, a secret."""

    def __init__(self, secrets: Sequence[str]) -> None:
        known = [re.escape(secret) for secret in secrets if secret]
        self._pattern = re.compile("|".join([*known, *_PATTERNS]))
        self._known = re.compile("|".join(known) or _NOTHING)

    def __call__(self, text: str) -> str:
        return self._pattern.sub(_HIDDEN, text)

    def known(self, text: str) -> str:
        """Without the guesses, which could cut into what is no prose."""
        return self._known.sub(_HIDDEN, text)
