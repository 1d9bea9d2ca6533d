"""What can be imported: a shell command or script of vigogne, or YAML of one of two programs."""

from cli.errors import CliError
from cli.importing import axolotl, llama_factory, train_sft
from cli.importing.draft import Draft
from cli.importing.yaml_files import read_yaml


def draft_of(text: str) -> Draft:
    """The job that a source asks for, whichever program it is written for.

    Raises:
        CliError: It is written for none that is known.
    """
    if "--model_name_or_path" in text:
        return train_sft.draft_of(text)
    keys = read_yaml(text)
    if "base_model" in keys:
        return axolotl.draft_of(keys)
    if "model_name_or_path" in keys:
        return llama_factory.draft_of(keys)
    raise CliError(
        "neither --model_name_or_path (vigogne), nor base_model (Axolotl), nor "
        "model_name_or_path (LLaMA-Factory) is in it"
    )
