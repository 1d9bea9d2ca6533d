"""What each format of single texts refuses in a row, and what it would accept instead.

Works on parsed JSON and raises `RowProblem`; the rows themselves, and the table of formats that
names these checks, are in `training.formats`. Conversations are in `training.conversation_checks`.
A check returns what is odd about a row that it takes, which is counted: here there is nothing.
"""

from training.json_lines import JsonObject, RowProblem, kind

INSTRUCT = (
    'A row such as {"instruction": "…", "input": "", "output": "…"}, optionally with system and '
    "history."
)
PROMPT_COMPLETION = 'A row such as {"prompt": "…", "completion": "…"}.'
TEXT = 'A row such as {"text": "…"}.'
_HISTORY = 'A history such as [["a question", "its answer"]], or none.'

Remarks = tuple[str, ...]
"""What is odd about a good row, each kind once."""


def check_instruction(row: JsonObject) -> Remarks:
    check_text(row.get("instruction"), "instruction", INSTRUCT)
    _check_target(row, "output", INSTRUCT)
    if len(row) > 2:
        check_optional_text(row.get("input"), "input")
        check_optional_text(row.get("system"), "system")
        if (history := row.get("history")) is not None:
            _check_history(history)
    return ()


def check_prompt_completion(row: JsonObject) -> Remarks:
    check_text(row.get("prompt"), "prompt", PROMPT_COMPLETION)
    _check_target(row, "completion", PROMPT_COMPLETION)
    return ()


def check_plain_text(row: JsonObject) -> Remarks:
    _check_target(row, "text", TEXT)
    return ()


def check_text(value: object, at: str, accepted: str) -> None:
    if not isinstance(value, str):
        raise RowProblem(f"{at} is {kind(value)}, not a string", accepted)
    if "\0" in value:
        raise RowProblem(f"{at} holds a NUL character", "Text without NUL characters.")


def check_optional_text(value: object, at: str) -> None:
    """A string that may be left out, or null."""
    if value is not None:
        check_text(value, at, f"A string for {at}, or none.")


def is_blank(text: object) -> bool:
    return isinstance(text, str) and (not text or text.isspace())


def _check_target(row: JsonObject, key: str, accepted: str) -> None:
    """A string that is learned, so there must be something in it."""
    value = row.get(key)
    check_text(value, key, accepted)
    if is_blank(value):
        raise RowProblem(f"{key} is empty, so there is nothing to learn", accepted)


def _check_history(history: object) -> None:
    if not isinstance(history, list):
        raise RowProblem(f"history is {kind(history)}, not an array", _HISTORY)
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowProblem(f"history[{index}] is no pair of question and answer", _HISTORY)
        for place, text in enumerate(pair):
            check_text(text, f"history[{index}][{place}]", _HISTORY)
        if is_blank(pair[1]):
            raise RowProblem(f"history[{index}][1] is an empty answer", _HISTORY)
