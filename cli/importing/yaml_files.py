"""YAML as a configuration of training has it: one object of keys, read without running anything."""

import re
from typing import Any

import yaml

from cli.errors import CliError


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Sees a number in `1e-4` too, which YAML 1.1 takes for a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        CliError: It is not YAML, or no object.
    """
    try:
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        raise CliError(f"this is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CliError(
            "this is neither a command with --model_name_or_path nor a configuration in YAML, "
            "which is an object of keys"
        )
    return found
