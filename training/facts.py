"""What is known of a base model without loading it, and what a configuration may ask of it."""

from collections.abc import Iterator, Set

from pydantic import BaseModel, ConfigDict

from training.config import TrainingConfig
from training.data_config import DataConfig, FormatName
from training.layout_fit import Kind, layout_misfits
from training.misfit import Misfit
from training.sharing_conflicts import encoder_misfits
from training.targets import Subject, adapted, target_misfits
from training.weight_names import WeightGroup, listed


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
    weights: tuple[WeightGroup, ...] = ()
    """Every weight of the model in memory, whose names its files need not have. Empty in facts
    of before it was noted: then names are looked for among the leaf names."""
    taken_names: tuple[str, ...] = ()
    """Names of linear layers that PEFT takes for parts of this architecture's experts."""
    barred_names: tuple[str, ...] = ()
    """Names of linear layers that PEFT refuses to adapt in this architecture."""
    attentions: tuple[str, ...] = ()
    """Each `attn_implementation` that there is for it; empty in facts of before this was noted."""
    tie_word_embeddings: bool
    has_chat_template: bool
    has_bos_token: bool | None = None
    """None where the tokenizer's files do not say, and in facts of before this was noted."""
    is_encoder_decoder: bool = False
    bytes: int
    sha256: str
    """Hash over the names and hashes of the folder's files: the identity a job is pinned to."""


def misfits(config: TrainingConfig, facts: ModelFacts) -> Iterator[Misfit]:
    """Every reason why `config` cannot train this model, before anything is loaded."""
    length = config.data.max_length
    if length is not None and length > facts.context_length:
        yield Misfit(
            param="training.data.max_length",
            message=f"max_length {length} is beyond the model's context of "
            f"{facts.context_length} tokens",
            remedy=f"give {facts.context_length} or less",
        )
    yield from _no_such_attention(config, facts)
    yield from _no_such_token(config, facts)
    yield from encoder_misfits(config.parallelism, has_encoder=facts.is_encoder_decoder)
    if facts.weights:
        subject = Subject(
            listed(facts.weights),
            tied=facts.tie_word_embeddings,
            quantized=config.model.quantization is not None,
            taken_names=frozenset(facts.taken_names),
            barred_names=frozenset(facts.barred_names),
            in_parts=config.parallelism.strategy == "zero3",
            has_encoder=facts.is_encoder_decoder,
        )
        if config.adapter.type == "lora":
            yield from target_misfits(config.adapter, subject)
            yield from _adapted_and_grown(config, subject)
        yield from _nothing_to_project(config, subject)
    else:
        yield from _unknown_leaves(config, facts)


def _no_such_attention(config: TrainingConfig, facts: ModelFacts) -> Iterator[Misfit]:
    asked = config.model.attn_implementation
    if asked != "auto" and facts.attentions and asked not in facts.attentions:
        yield Misfit(
            param="training.model.attn_implementation",
            message=f"{facts.architecture} has no {asked!r}, but {', '.join(facts.attentions)}",
            remedy='set it to "auto"',
        )


def _no_such_token(config: TrainingConfig, facts: ModelFacts) -> Iterator[Misfit]:
    is_added = "bos_token" in config.model.add_special_tokens
    if config.data.add_bos_token and facts.has_bos_token is False and not is_added:
        yield Misfit(
            param="training.data.add_bos_token",
            message="the model's tokenizer has no token that begins a sequence",
            remedy="set it to false or null, or add a bos_token in model.add_special_tokens",
        )


def data_misfits(data: DataConfig, facts: ModelFacts, formats: Set[FormatName]) -> Iterator[Misfit]:
    """Every reason why rows of these formats cannot be written for this model as asked."""
    kind = Kind(has_encoder=facts.is_encoder_decoder, has_template=facts.has_chat_template)
    return layout_misfits(data, formats, kind)


def _adapted_and_grown(config: TrainingConfig, subject: Subject) -> Iterator[Misfit]:
    """Rows of new tokens are trained beside a frozen weight, which one with an adapter is not."""
    if not config.model.adds_tokens:
        return
    for weight in adapted(config.adapter, subject):
        if weight.kind in {"embedding", "head"}:
            yield Misfit(
                param="training.adapter.target_modules",
                message=f"{weight.module} cannot have both an adapter and rows for new tokens",
                remedy="name it in modules_to_save instead, or leave it out",
            )


def _nothing_to_project(config: TrainingConfig, subject: Subject) -> Iterator[Misfit]:
    """GaLore and APOLLO look for a name anywhere in that of a linear layer."""
    asked = config.optimization.optim_target_modules or ()
    linear = [weight.module for weight in subject.linear]
    for name in () if asked == "all-linear" else asked:
        if not any(name in module for module in linear):
            yield Misfit(
                param="training.optimization.optim_target_modules",
                message=f"no linear layer of the model has {name!r} in its name",
            )


def _unknown_leaves(config: TrainingConfig, facts: ModelFacts) -> Iterator[Misfit]:
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
