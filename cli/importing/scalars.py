"""What a piece of text means as a value: a switch, a number, or itself."""

_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def scalar(text: str) -> bool | int | float | str:
    """As transformers reads an argument of a command; `1e-4` is a number, which YAML overlooks."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
