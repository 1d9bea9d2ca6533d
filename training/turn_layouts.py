"""What a chat template writes around the turns of conversations of one shape, learned once.

To find an assistant's turn in a rendered conversation takes several further renderings (see
`training.exact_turns`). Conversations with the same roles in the same order differ in their
contents only, and most templates write the same around any contents. That is learned from
contents that are made up, and checked against the exact way for the first conversations of a
shape; of every conversation, all of the text is compared with what it should be then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Bounds = tuple[int, int]
Trim = Callable[[str], str]

_PAD_BEFORE, _PAD_AFTER = " \n", "\n "
_TRIMS: dict[tuple[bool, bool], Trim] = {
    (True, True): str,
    (True, False): str.rstrip,
    (False, True): str.lstrip,
    (False, False): str.strip,
}
"""By what a template leaves of blanks before and behind a content."""


def made_up_content(number: int) -> str:
    """A content that no conversation has, in blanks, which some templates trim."""
    return f"{_PAD_BEFORE}{_core(number)}{_PAD_AFTER}"


def _core(number: int) -> str:
    return f"\u2063CONTENT{number}\u2063"


@dataclass(frozen=True)
class TurnLayout:
    """What stands around the contents of a conversation.

    Attributes:
        literals: Before the first content, between each two, and behind the last.
        trims: What the template does to each content.
    """

    literals: tuple[str, ...]
    trims: tuple[Trim, ...]

    def bounds(self, text: str, contents: Sequence[str]) -> list[Bounds] | None:
        """Where each content stands in `text`; None if that is not this layout of them."""
        pieces = [self.literals[0]]
        place = len(self.literals[0])
        bounds = []
        for content, trim, literal in zip(contents, self.trims, self.literals[1:], strict=True):
            trimmed = trim(content)
            end = place + len(trimmed)
            bounds.append((place, end))
            pieces += (trimmed, literal)
            place = end + len(literal)
        return bounds if "".join(pieces) == text else None


def learn_layout(text: str, num_contents: int) -> TurnLayout | None:
    """The layout behind a conversation with the contents of `made_up_content`.

    None if they do not all stand in it, once and in their order.
    """
    literals = []
    trims = []
    rest = text
    for number in range(num_contents):
        core = _core(number)
        if rest.count(core) != 1:
            return None
        before, rest = rest.split(core)
        keeps_before, keeps_after = before.endswith(_PAD_BEFORE), rest.startswith(_PAD_AFTER)
        literals.append(before.removesuffix(_PAD_BEFORE))
        rest = rest.removeprefix(_PAD_AFTER)
        trims.append(_TRIMS[keeps_before, keeps_after])
    return TurnLayout((*literals, rest), tuple(trims))
