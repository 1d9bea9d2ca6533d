"""Why a key that a service must not honour is refused, and which of its values are let through."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why a key is refused.

    Attributes:
        words: What takes its place, as the rest of a sentence that begins with the key.
        harmless: Values that ask for nothing else than what is done.
        kinds: Types all of whose values are harmless.
    """

    words: str
    harmless: tuple[object, ...] = (None, False)
    kinds: tuple[type, ...] = ()

    def allows(self, value: object) -> bool:
        return type(value) in self.kinds or any(_is_same(value, each) for each in self.harmless)


def _is_same(value: object, other: object) -> bool:
    """Whether both are equal; a number is no switch."""
    return isinstance(value, bool) is isinstance(other, bool) and value == other


SERVICE = Refusal("the service decides that; leave it out", kinds=(bool, int, str))
HUB = Refusal("a result goes to a hub by POST /v1/fine_tuning/jobs/{id}/exports, after the job")
