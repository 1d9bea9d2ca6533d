"""The result of a run: a folder that others can use, opened again and checked before it counts."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from training.adapters import Trainable
from training.card import Card
from training.checkpoint import Shapes, write_weights
from training.distributed import Crew
from training.model import computation_dtype
from training.written import check_adapter, check_learned, check_model


@dataclass(frozen=True)
class Exported:
    """What goes into the result beside the weights.

    Attributes:
        template: The chat template the data was rendered with; None if none was used.
        settings: Of generation, where those of the base will not do.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    settings: GenerationConfig | None
    card: Card


def export(model: Trainable, target: Path, exported: Exported, crew: Crew) -> None:
    """Write `target` whole: weights, tokenizer, chat template, model card and manifest.

    All processes of the run bring their parts of the weights; the first one writes.

    Raises:
        RunError: What was written does not hold what was trained; then nothing is left there.
    """
    with crew.complete_folder(target) as folder:
        if isinstance(model, PeftModel):
            shapes = write_weights(model, folder, keeps=crew.is_first)
        else:
            shapes = _write_model(model, folder, exported, keeps=crew.is_first)
        if not crew.is_first:
            return
        write_settings(folder, exported.settings)
        if exported.template is not None:
            exported.tokenizer.chat_template = exported.template
        exported.tokenizer.save_pretrained(folder)
        if shapes:
            check_adapter(folder, shapes)
            check_learned(folder)
        else:
            check_model(folder)
        (folder / "README.md").write_text(exported.card.in_markdown(), encoding="utf-8")


def write_settings(folder: Path, settings: GenerationConfig | None) -> None:
    """In place of those that came with the model; beside an adapter, for those who use it."""
    if settings is not None:
        settings.to_json_file(folder / GENERATION_CONFIG_NAME)


def _write_model(model: Trainable, folder: Path, exported: Exported, *, keeps: bool) -> Shapes:
    """The model in the precision it was trained for."""
    model.config.use_cache = True
    dtype = computation_dtype(exported.card.config.model)
    return write_weights(model, folder, keeps=keeps, dtype=dtype)
