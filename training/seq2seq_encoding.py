"""Rows for a model with an encoder, which reads what is asked; its decoder says the answer.

A document holds both, one after the other: what takes loss is the decoder's side, and what stands
before it the encoder's. So it is kept, counted, cut and chosen like any other.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from training.documents import Document
from training.encoding import Encoder, SeveralTurnsError
from training.rows import Conversation, Message, PromptCompletion, Text


class Seq2SeqEncoder(Encoder):
    """Turns rows into documents of two sides.

    The encoder is given what the template asks an answer with, as it stands, or a prompt with
    whatever the tokenizer puts around a text; the decoder the answer and the end of sequence.
    """

    def traits(self) -> dict[str, Any]:
        return {**super().traits(), "sides": 2}

    def prompt_ids(self, question: str) -> list[int]:
        return super().prompt_ids(question) if self._renderer else self._ended(question)

    def _taught_end(self) -> set[int]:
        return set()  # an answer ends with the end of sequence, whatever the template writes

    def _chat(self, row: Conversation) -> Document:
        assert self._renderer is not None, "conversations need a template"
        asked, answer, takes_loss = _one_turn(row)
        document = self._joined(self._ids(self._renderer.asked(asked)), self._answer(answer))
        return replace(document, is_target=document.is_target & takes_loss)

    def _prompt_and_completion(self, row: PromptCompletion) -> tuple[list[int], list[int]]:
        return self._ended(row.prompt), self._answer(row.completion)

    def _joined(self, prompt: list[int], completion: list[int]) -> Document:
        is_target = np.arange(len(prompt) + len(completion)) >= len(prompt)
        return Document(np.asarray([*prompt, *completion], dtype=np.int32), is_target)

    def _plain(self, row: Text) -> Document:
        raise AssertionError(f"line {row.line}: a text has no side for an encoder; refused before")

    def _ended(self, text: str) -> list[int]:
        """A text with what the tokenizer puts around it by itself; never nothing."""
        eos = self._tokenizer.eos_token_id
        ids = self._with_bos(self._ids(text))
        writes_eos = self._tokenizer("a")["input_ids"][-1:] == [eos]
        return [*ids, eos] if writes_eos or not ids else ids

    def _answer(self, text: str) -> list[int]:
        return self._with_eos(self._ids(text))


def encoder_type(*, has_encoder: bool) -> type[Encoder]:
    """What makes documents for a model."""
    return Seq2SeqEncoder if has_encoder else Encoder


def _one_turn(row: Conversation) -> tuple[tuple[Message, ...], str, bool]:
    """What is asked, the answer, and whether that takes loss.

    Raises:
        SeveralTurnsError: There is more than one of each, or a tool.
    """
    answers = [place for place, message in enumerate(row.messages) if message.role == "assistant"]
    last = answers[-1]
    asked, answer = row.messages[:last], row.messages[last]
    roles = [message.role for message in asked]
    if roles not in (["user"], ["system", "user"]) or row.tools or answer.content is None:
        tools = " with tools" if row.tools else ""
        raise SeveralTurnsError(f"the turns are {', '.join([*roles, 'assistant'])}{tools}")
    return asked, answer.content, answer.weight != 0
