"""YAML as a configuration of training has it: one object of keys, read without running anything."""

from typing import Any

import yaml

from cli.errors import CliError


def read_yaml(text: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        CliError: It is not YAML, or no object.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CliError(f"this is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CliError("a configuration in YAML is an object of keys, which this is not")
    return found
