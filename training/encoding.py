"""Rows to tokens: one frozen `Document` per row, with the tokens that take loss.

Shapes: T tokens of one document.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from training.rows import Conversation, Instruction, PromptCompletion, Row
from training.templates import ChatRenderer, HiddenTurnError, Rendered, TrainOn, as_conversation


@dataclass(frozen=True, eq=False)
class Document:
    """One row as the model reads it.

    Attributes:
        input_ids: [T] token ids.
        is_target: [T] whether a token takes loss; never the first, which nothing predicts.
    """

    input_ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    def cut(self, max_length: int) -> "Document":
        """The first `max_length` tokens; no end of sequence is invented."""
        return Document(self.input_ids[:max_length], self.is_target[:max_length])


def _document(input_ids: list[int], is_target: NDArray[np.bool_]) -> Document:
    is_target[:1] = False
    return Document(np.asarray(input_ids, dtype=np.int32), is_target)


class Encoder:
    """Turns rows of any format into documents for one tokenizer and one template.

    Attributes:
        stop_ids: Tokens that end what the model says: of its settings, and of the template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        *,
        train_on: TrainOn,
        alpaca: bool,
        stop_ids: Iterable[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = (
            None if template is None else ChatRenderer(template, tokenizer.special_tokens_map)
        )
        self._train_on = train_on
        self._alpaca = alpaca
        self._added = frozenset(tokenizer.get_added_vocab().values())
        self.stop_ids = {*stop_ids, tokenizer.eos_token_id}

    def encode(self, row: Row) -> Document:
        """The document of a row.

        Raises:
            HiddenTurnError: The template hides where an assistant's turn begins or ends.
            jinja2.TemplateError: The template refuses the conversation.
        """
        match row:
            case PromptCompletion():
                return self._concatenated(row)
            case Instruction():
                return self._chat(as_conversation(row, alpaca=self._alpaca))
            case Conversation():
                return self._chat(row)

    def prompt_ids(self, question: str) -> list[int]:
        """The tokens that ask for an answer to `question`, as at inference."""
        if self._renderer is None:
            return self._with_bos(self._ids(question))
        return self._ids(self._renderer.prompt(question))

    def _concatenated(self, row: PromptCompletion) -> Document:
        """Prompt, completion and end of sequence, cut between the two as at inference."""
        prompt = self._with_bos(self._ids(row.prompt))
        joint = self._with_bos(self._ids(row.prompt + row.completion))
        splits_cleanly = joint[: len(prompt)] == prompt
        completion = joint[len(prompt) :] if splits_cleanly else self._ids(row.completion)
        input_ids = [*prompt, *completion, self._tokenizer.eos_token_id]
        is_target = np.ones(len(input_ids), dtype=np.bool_)
        if self._train_on != "everything":
            is_target[: len(prompt)] = False
        return _document(input_ids, is_target)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _with_bos(self, ids: list[int]) -> list[int]:
        """`ids` after the beginning of sequence, once, where this tokenizer writes one."""
        bos = self._tokenizer.bos_token_id
        writes_bos = bos is not None and self._tokenizer("a")["input_ids"][:1] == [bos]
        return [bos, *ids] if writes_bos and ids[:1] != [bos] else ids

    def _chat(self, row: Conversation) -> Document:
        assert self._renderer is not None, "conversations need a template"
        rendered = self._renderer.render(row, self._train_on)
        # The template wrote every special token itself.
        encoding = self._tokenizer(
            rendered.text, add_special_tokens=False, return_offsets_mapping=True
        )
        input_ids: list[int] = encoding["input_ids"]
        offsets = np.asarray(encoding["offset_mapping"]).reshape(-1, 2)
        is_target = np.zeros(len(input_ids), dtype=np.bool_)
        if self._train_on == "everything":
            is_target[:] = True
        for first, last, takes_loss in self._token_spans(rendered, input_ids, offsets):
            is_target[first:last] = takes_loss
        return _document(input_ids, is_target)

    def _token_spans(
        self, rendered: Rendered, input_ids: list[int], offsets: NDArray[np.int64]
    ) -> Iterable[tuple[int, int, bool]]:
        """Each turn in whole tokens, from its first to behind the token that closes it."""
        for span in rendered.spans:
            first = int(np.searchsorted(offsets[:, 1], span.start, side="right"))
            last = int(np.searchsorted(offsets[:, 0], span.end, side="left"))
            if last <= first or input_ids[last - 1] not in self.stop_ids:
                last = self._closing(rendered, span.tail, input_ids, offsets, last)
            yield first, last, span.takes_loss

    def _closing(
        self,
        rendered: Rendered,
        tail: str,
        input_ids: list[int],
        offsets: NDArray[np.int64],
        end: int,
    ) -> int:
        """The position behind the special token that closes the turn whose text ends at `end`."""
        position = end
        while position < len(input_ids) and input_ids[position] not in self._added:
            if rendered.text[slice(*offsets[position])].strip():
                break
            position += 1
        if position < len(input_ids) and input_ids[position] in self._closing_ids(tail):
            return position + 1
        if rendered.is_marked and input_ids[end - 1] in self._added:
            return end
        raise HiddenTurnError("the template closes the assistant's turn with no token of its own")

    def _closing_ids(self, tail: str) -> set[int]:
        special = [token for token in self._ids(tail) if token in self._added]
        return {*self.stop_ids, *special[:1]}
