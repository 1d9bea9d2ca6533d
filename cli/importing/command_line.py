"""A command as a shell script has it: its arguments, the launcher's, and the variables around it.

Nothing is run and nothing is read but the text. Values of variables that the script sets are put
in; what only a shell could know is left as it stands, to be told.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from cli.errors import CliError

_MODEL_FLAG = "--model_name_or_path"
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|([A-Za-z_]\w*))")
_UNCUT = r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|`[^`]*`|\$\{[^}]*\}|[$=<>]\((?:[^()]|\([^()]*\))*\)"
"""What holds no operator of the shell: quotes, and what stands for another text."""
_PIECE = re.compile(
    rf"#.*|{_UNCUT}"
    rf"|(?P<redirection>(?:(?<!\S)\d+|&)?[<>]{{1,3}}[&|-]?[ \t]*(?:{_UNCUT}|[^\s;&|<>()])*)"
    r"|(?P<end>[;&|()]+)"
    r"|.",
    re.DOTALL,
)
_PROGRAM = re.compile(r".*(\.py|train_sft)")

Flags = dict[str, list[str]]


@dataclass
class Command:
    """A command taken apart; names have underscores and no leading dashes.

    Attributes:
        flags: What the program is told; a switch has no values.
        launcher: What is told to torchrun, accelerate or deepspeed before it.
        environment: Variables that the script sets, or sets for this command.
    """

    flags: Flags = field(default_factory=dict)
    launcher: Flags = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def is_unknown(value: str) -> bool:
    """Whether a value still needs a shell."""
    return "$" in value or "`" in value


def parse_command(text: str) -> Command:
    """The first command in a script that is given a model to train.

    Raises:
        CliError: There is none, or its quotes do not match.
    """
    variables: dict[str, str] = {}
    for words in map(_split, chain.from_iterable(map(_commands, _lines(text)))):
        if words[:1] == ["export"]:
            del words[0]
        own = _assignments(words, variables)
        rest = [_expanded(word, own) for word in words[_num_assignments(words) :]]
        if not rest:
            variables = own
        elif any(word.partition("=")[0] == _MODEL_FLAG for word in rest):
            return _command(rest, own)
    raise CliError(f"there is no command with {_MODEL_FLAG} in it")


def _command(words: Sequence[str], environment: dict[str, str]) -> Command:
    programs = [i for i, word in enumerate(words) if _PROGRAM.fullmatch(word)]
    start = programs[0] if programs else -1
    before = words[: max(start, 0)]
    return Command(
        flags=dict(_flags(words[start + 1 :])),
        launcher=dict(_flags(before[:-1] if before[-1:] == ["-m"] else before)),
        environment=environment,
    )


def _lines(text: str) -> Iterator[str]:
    """Lines of a shell: continued behind a backslash or in a quote, without comment lines."""
    logical = ""
    for line in map(str.rstrip, text.splitlines()):
        if line.lstrip().startswith("#"):
            continued = False  # a comment ends what is continued
        elif continued := line.endswith("\\"):
            logical += f"{line[:-1]} "
        else:
            logical += line
            if continued := _is_open(logical):
                logical += "\n"
        if not continued:
            yield logical
            logical = ""
    yield logical


def _is_open(line: str) -> bool:
    """Whether a quote goes on on the next line."""
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return False


def _commands(line: str) -> Iterator[str]:
    """The commands of a line, without where they read and write."""
    command = ""
    for piece in _PIECE.finditer(line):
        if piece["end"]:
            yield command
            command = ""
        else:
            command += " " if piece["redirection"] else piece[0]
    yield command


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise CliError(f"this is no command that a shell would read: {error}") from None


def _num_assignments(words: Sequence[str]) -> int:
    """How many words in front are `NAME=value`."""
    return next((i for i, word in enumerate(words) if not _ASSIGNMENT.fullmatch(word)), len(words))


def _assignments(words: Sequence[str], variables: dict[str, str]) -> dict[str, str]:
    """`variables` with those that the words in front set."""
    known = dict(variables)
    for word in words[: _num_assignments(words)]:
        name, _, value = word.partition("=")
        known[name] = _expanded(value, known)
    return known


def _expanded(word: str, variables: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        fallback = found[0] if found[2] is None else found[2]
        return variables.get(found[1] or found[3], fallback)

    return _VARIABLE.sub(value, word)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Every `--flag` with what stands behind it up to the next one, or behind its `=`."""
    name, values = "", list[str]()
    for word in words:
        if not word.startswith("--"):
            values.append(word)
            continue
        if name:
            yield name, values
        name, equals, value = word.removeprefix("--").partition("=")
        name, values = name.replace("-", "_"), [value] if equals else []
    if name:
        yield name, values
