"""Rows to tokens: one `Document` per row, with the tokens that take loss."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from training.data_counts import HIDDEN_TURN, LEFT_OUT, REFUSED, SEVERAL_TURNS, TOO_LONG
from training.documents import Document
from training.layouts import Layout, as_conversation
from training.rendered import HiddenTurnError, LeftOutError, Rendered, Span
from training.rows import Conversation, Instruction, Message, PromptCompletion, Row, Text
from training.templates import ChatRenderer, TrainOn
from training.tokenization import Ids, Tokens, WholeTokens, tokens_of


class SeveralTurnsError(ValueError):
    """A conversation of more turns than the model can be given."""


_REFUSALS: Mapping[type[Exception], str] = {
    SeveralTurnsError: SEVERAL_TURNS,
    HiddenTurnError: HIDDEN_TURN,
    LeftOutError: LEFT_OUT,
    TemplateError: REFUSED,
}
T = TypeVar("T")

_TOKENIZER_FILES = frozenset({".jinja", ".json", ".model", ".tiktoken", ".txt"})
_CUTS = 4
_TALK = Conversation(0, (Message("user", "?"), Message("assistant", "Certainly42")))


@dataclass(frozen=True)
class Refusal:
    """Why a row cannot be trained on: one of the reasons of `training.data_counts`, and more."""

    reason: str
    detail: str


class _Turn(NamedTuple):
    """Tokens `start` to `end` of a conversation: an assistant's turn, with what ends it."""

    start: int
    end: int
    takes_loss: bool


def _document(input_ids: list[int], is_target: NDArray[np.bool_]) -> Document:
    is_target[:1] = False
    return Document(np.asarray(input_ids, dtype=np.int32), is_target)


class Encoder:
    """Turns rows of any format into documents for one tokenizer and one layout.

    Attributes:
        stop_ids: Tokens at which the model stops by its settings, and its tokenizer's own.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
        *,
        train_on: TrainOn,
        stop_ids: Iterable[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = (
            None
            if layout.template is None
            else ChatRenderer(layout.template, tokenizer.special_tokens_map)
        )
        self._train_on = train_on
        self._layout = layout
        self._tokens: Tokens = tokens_of(tokenizer)
        self._added = frozenset(tokenizer.get_added_vocab().values())
        self._blank: dict[int, bool] = {}
        self._closing: dict[str, list[int]] = {}
        self.stop_ids = {*stop_ids, tokenizer.eos_token_id}

    @cached_property
    def ends(self) -> frozenset[int]:
        """`stop_ids`, and the token with which the template has the model end an answer."""
        return frozenset({*self.stop_ids, *self._taught_end()})

    def _taught_end(self) -> set[int]:
        if self._renderer is None:
            return set()
        outcome = _or_refusal(lambda: self._turns(_TALK))
        if isinstance(outcome, Refusal):
            return set()
        ids, turns = outcome
        return {int(ids[turns[-1].end - 1])} & self._added

    def encode(self, row: Row) -> Document:
        """The document of a row.

        Raises:
            HiddenTurnError: The template hides where an assistant's turn begins or ends.
            LeftOutError: The template leaves out tools.
            jinja2.TemplateError: The template refuses the conversation.
        """
        match row:
            case PromptCompletion():
                return self._concatenated(row)
            case Instruction():
                return self._chat(as_conversation(row, self._layout.merge))
            case Conversation():
                return self._chat(row)
            case Text():
                return self._plain(row)

    def ask_the_tokenizer(self) -> None:
        """Take no shortcut any more; see `training.tokenization`."""
        self._tokens = WholeTokens(self._tokenizer.backend_tokenizer)

    def outcome(self, row: Row) -> Document | Refusal:
        """The document of a row, or why it has none."""
        return _or_refusal(lambda: self.encode(row))

    def with_shorter_prompt(self, row: Row, max_length: int) -> Document | Refusal:
        """The document of a row whose prompt is cut at its left until all fits.

        What stays: the beginning of sequence, system messages, the newest turns and the whole of
        the last answer that takes loss. What follows that goes first; older turns go as wholes, a
        question and all up to the next one; when one question is left, it loses its beginning.
        """
        shorter = _or_refusal(lambda: self._with_shorter_prompt(row, max_length))
        reason = (
            f"the answer, with all else that is kept whole, fills max_length ({max_length} "
            "tokens), so that no token of the prompt is left"
        )
        return Refusal(TOO_LONG, reason) if shorter is None else shorter

    def _with_shorter_prompt(self, row: Row, max_length: int) -> Document | None:
        """None if what may not be cut leaves no room for a token of the prompt."""
        match row:
            case PromptCompletion():
                return self._cut_left(row, max_length)
            case Instruction():
                return self._shorter(as_conversation(row, self._layout.merge), max_length)
            case Conversation():
                return self._shorter(row, max_length)
            case Text():
                return None

    def traits(self) -> dict[str, Any]:
        """All that documents depend on but the rows, in values that JSON can write."""
        tokenizer, layout = self._tokenizer, self._layout
        return {
            "template": layout.template,
            "merge": layout.merge.__qualname__,
            "adds_bos": layout.adds_bos,
            "train_on": self._train_on,
            "stop_ids": sorted(self.stop_ids),
            "tokenizer": _files_hash(Path(tokenizer.name_or_path)),
            "special_tokens": {name: str(x) for name, x in tokenizer.special_tokens_map.items()},
            "added_tokens": tokenizer.get_added_vocab(),
        }

    def prompt_ids(self, question: str) -> list[int]:
        """The tokens that ask for an answer to `question`, as at inference."""
        if self._renderer is None:
            return self._with_bos(self._ids(question))
        return self._ids(self._renderer.prompt(question))

    def _concatenated(self, row: PromptCompletion) -> Document:
        return self._joined(*self._prompt_and_completion(row))

    def _prompt_and_completion(self, row: PromptCompletion) -> tuple[list[int], list[int]]:
        """Both as tokens, cut between the two as at inference; the end of sequence included."""
        prompt = self._with_bos(self._ids(row.prompt))
        joint = self._with_bos(self._ids(row.prompt + row.completion))
        splits_cleanly = joint[: len(prompt)] == prompt
        completion = joint[len(prompt) :] if splits_cleanly else self._ids(row.completion)
        return prompt, self._with_eos(completion)

    def _joined(self, prompt: list[int], completion: list[int]) -> Document:
        input_ids = [*prompt, *completion]
        is_target = np.ones(len(input_ids), dtype=np.bool_)
        if self._train_on != "everything":
            is_target[: len(prompt)] = False
        return _document(input_ids, is_target)

    def _cut_left(self, row: PromptCompletion, max_length: int) -> Document | None:
        prompt, completion = self._prompt_and_completion(row)
        head = prompt[:1] if self._layout.adds_bos else []
        num_kept = max_length - len(head) - len(completion)
        if num_kept < 1:
            return None
        return self._joined([*head, *prompt[max(len(head), len(prompt) - num_kept) :]], completion)

    def _plain(self, row: Text) -> Document:
        """A text and the end of sequence, once; all of it is trained on."""
        input_ids = self._with_eos(self._with_bos(self._ids(row.text)))
        return _document(input_ids, np.ones(len(input_ids), dtype=np.bool_))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokens.ids(text).tolist()
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        """`ids` after the beginning of sequence, once, if the layout adds one."""
        bos = self._tokenizer.bos_token_id
        return [bos, *ids] if self._layout.adds_bos and ids[:1] != [bos] else ids

    def _with_eos(self, ids: list[int]) -> list[int]:
        """`ids` and the end of sequence, once: blanks may stand behind one that is there."""
        eos = self._tokenizer.eos_token_id
        said = self._before_blanks(ids, 0, len(ids))
        return ids if ids[:said][-1:] == [eos] else [*ids, eos]

    def _chat(self, row: Conversation) -> Document:
        ids, turns = self._turns(row)
        is_target = (np.ones if self._train_on == "everything" else np.zeros)(len(ids), np.bool_)
        for turn in turns:
            is_target[turn.start : turn.end] = turn.takes_loss
        is_target[:1] = False
        return Document(ids, is_target)

    def _turns(self, row: Conversation) -> tuple[Ids, list[_Turn]]:
        """A conversation as tokens, and where in them the assistant speaks."""
        assert self._renderer is not None, "conversations need a template"
        rendered = self._renderer.render(row, self._train_on)
        # The template wrote every special token itself.
        ids, places = self._tokens.with_spans(
            rendered.text, [(span.start, span.end) for span in rendered.spans]
        )
        if places[-1][1] == len(ids) and not self._ends_itself(rendered, ids):
            ids = np.append(ids, self._begins_next_turn(row))
        return ids, [
            _Turn(first, self._end(rendered, span, ids, first, last), span.takes_loss)
            for span, (first, last) in zip(rendered.spans, places, strict=True)
        ]

    def _ends_itself(self, rendered: Rendered, ids: Ids) -> bool:
        """Whether the last turn, up to the end of all, holds what ends it."""
        holds_end = rendered.is_marked or rendered.spans[-1].holds_end
        return holds_end and int(ids[-1]) in self.stop_ids

    def _begins_next_turn(self, row: Conversation) -> Ids:
        """The token with which the next turn begins, with blanks before it; none if not a stop."""
        assert self._renderer is not None, "conversations need a template"
        ids = self._ids(self._renderer.next_turn(row))
        first = next((i for i, token in enumerate(ids) if not self._is_plain_blank(token)), 0)
        closing = ids[: first + 1] if self.stop_ids.issuperset(ids[first : first + 1]) else []
        return np.asarray(closing, np.int32)

    def _end(self, rendered: Rendered, span: Span, ids: Ids, first: int, last: int) -> int:
        """The position behind the special token that closes a turn, which may be its last one.

        An earlier answer may have one at which the model does not stop (gpt-oss: `<|end|>`, where
        the last answer has `<|return|>`): learned as an end, it would let the model run on.
        """
        may_hold_end = rendered.is_marked or span.holds_end
        said = self._before_blanks(ids, first, last) if may_hold_end else last
        ends_itself = said > first and ids[said - 1] in self.stop_ids
        if ends_itself and span.holds_end:
            return said
        position = last
        while position < len(ids) and self._is_plain_blank(int(ids[position])):
            position += 1
        if num_closing := self._num_closing(ids[position:], span.tail):
            return position + num_closing
        if ends_itself or (may_hold_end and ids[said - 1] in self._added):
            return said
        if span is not rendered.spans[-1] and position < len(ids) and ids[position] in self._added:
            return last
        raise HiddenTurnError("the template closes the assistant's turn with no token of its own")

    def _before_blanks(self, ids: Ids | list[int], first: int, last: int) -> int:
        """Where a turn ends without the blanks at its end, which a mark may hold."""
        while last > first and self._is_plain_blank(int(ids[last - 1])):
            last -= 1
        return last

    def _is_plain_blank(self, token: int) -> bool:
        """Whether a token is blank, and none of those that were added to the vocabulary."""
        if token not in self._blank:
            is_blank = not str(self._tokenizer.decode([token])).strip()
            self._blank[token] = is_blank and token not in self._added
        return self._blank[token]

    def _num_closing(self, ids: Ids, tail: str) -> int:
        """How many of the tokens behind an answer the model says to end it.

        Its own token, or more where it would not stop at that one (Cohere: `<|END_RESPONSE|>`
        and the end of the turn).
        """
        if not len(ids):
            return 0
        first = int(ids[0])
        if first in self.stop_ids:
            return 1
        closing = self._closing_ids(tail)
        if ids[: len(closing)].tolist() == closing:
            return len(closing)
        return int(first in closing[:1])

    def _closing_ids(self, tail: str) -> list[int]:
        """Of what follows the last answer: from the first special token to where the model stops.

        The first special token only, if the model stops at none.
        """
        if tail not in self._closing:
            ids = self._ids(tail)
            first = next((i for i, token in enumerate(ids) if token in self._added), len(ids))
            stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), first)
            self._closing[tail] = ids[first : stop + 1]
        return self._closing[tail]

    def _shorter(self, row: Conversation, max_length: int) -> Document | None:
        """Without its oldest turns, or with a shorter question; see `with_shorter_prompt`."""
        shorter = list(_without_oldest(row))
        if not shorter:
            return None
        fits = bisect_left(shorter, True, key=lambda each: len(self._chat(each)) <= max_length)
        if fits < len(shorter):
            return self._chat(shorter[fits])
        return self._with_shorter_question(shorter[-1], max_length)

    def _with_shorter_question(self, row: Conversation, max_length: int) -> Document | None:
        place = next(i for i, message in enumerate(row.messages) if message.role == "user")
        question = row.messages[place].content or ""
        offsets = self._tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        num_kept = len(offsets)
        document = self._chat(row)
        for _ in range(_CUTS):  # tokens that are cut may leave more than they were
            num_kept -= len(document) - max_length
            if num_kept < 1:
                return None
            rest = row.messages[place]._replace(content=question[offsets[-num_kept][0] :])
            messages = (*row.messages[:place], rest, *row.messages[place + 1 :])
            document = self._chat(replace(row, messages=messages))
            if len(document) <= max_length:
                return document
        return None


def _or_refusal(encode: Callable[[], T]) -> T | Refusal:
    try:
        return encode()
    except tuple(_REFUSALS) as error:
        reason = next(words for kind, words in _REFUSALS.items() if isinstance(error, kind))
        return Refusal(reason, str(error))


def _without_oldest(row: Conversation) -> Iterator[Conversation]:
    """`row` beginning at its first question, its second and so on, after its system messages.

    It ends with the last answer that takes loss; nothing behind that could be learned.
    """
    messages = row.messages
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    last = max((i for i in answers if messages[i].weight != 0), default=answers[-1])
    num_system = next(i for i, message in enumerate(messages) if message.role != "system")
    for place in range(num_system, last):
        if messages[place].role == "user":
            yield replace(row, messages=(*messages[:num_system], *messages[place : last + 1]))


def _files_hash(folder: Path) -> str:
    """Over the files of a model's folder that its tokenizer may be read from."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _TOKENIZER_FILES:
            with path.open("rb") as file:
                whole.update(f"{path.name}\0".encode())
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
