"""What is known of a base model without loading it, and what a configuration may ask of it."""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from training.config import TrainingConfig


class ModelFacts(BaseModel):
    """Read from a model folder by `python -m training inspect`; kept in the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    architecture: str
    model_type: str
    num_parameters: int
    context_length: int
    vocab_size: int
    linear_modules: tuple[str, ...]
    """Leaf names of the linear layers a LoRA adapter can target, e.g. `q_proj`."""
    module_names: tuple[str, ...]
    """Leaf names of every module with weights, for `modules_to_save`."""
    tie_word_embeddings: bool
    has_chat_template: bool
    bytes: int
    sha256: str
    """Hash over the names and hashes of the folder's files: the identity a job is pinned to."""


class Misfit(BaseModel):
    """One thing a configuration asks of a model that the model does not have."""

    model_config = ConfigDict(frozen=True)
    param: str
    message: str


def misfits(config: TrainingConfig, facts: ModelFacts) -> Iterator[Misfit]:
    """Every reason why `config` cannot train this model, before anything is loaded."""
    length = config.data.max_length
    if length is not None and length > facts.context_length:
        yield Misfit(
            param="training.data.max_length",
            message=f"max_length {length} is beyond the model's context of "
            f"{facts.context_length} tokens; give {facts.context_length} or less",
        )
    if config.adapter.target_modules != "all-linear":
        yield from _unknown_modules(
            "target_modules", config.adapter.target_modules, facts.linear_modules
        )
    yield from _unknown_modules(
        "modules_to_save", config.adapter.modules_to_save, facts.module_names
    )


def _unknown_modules(key: str, asked: list[str], known: tuple[str, ...]) -> Iterator[Misfit]:
    for name in asked:
        if name not in known:
            yield Misfit(
                param=f"training.adapter.{key}",
                message=f"the model has no module {name!r}; it has {', '.join(known)}",
            )
