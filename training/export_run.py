"""The recipe of an export: from what was trained to what was asked for, in `result/`."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError
from peft import PeftConfig, TaskType
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from training.added_tokens import roles_of
from training.checkpoint import ADAPTER_FILE
from training.export import write_settings
from training.export_card import ExportCard
from training.export_config import Content
from training.export_spec import ExportSpec
from training.failures import RunError
from training.gguf_export import PRECISIONS, check_and_tell, check_architecture, write_gguf
from training.layouts import Layout, choose_layout
from training.merging import Merger
from training.model import load_config, load_vocabulary, settings_after, stop_ids
from training.reporting import Reporter
from training.run_directory import RunDirectory, complete_folder, remove_folder
from training.seq2seq_encoding import encoder_type
from training.written import check_adapter, check_learned, shapes_of

_ADAPTER_FILES = (ADAPTER_FILE, "adapter_config.json", GENERATION_CONFIG_NAME, "README.md")
"""Of a checkpoint there is more: the state of training, which is for nobody else."""


@dataclass(frozen=True)
class _Making:
    """An export under way.

    Attributes:
        folder: What is made goes there.
        scratch: Is removed at the end.
    """

    spec: ExportSpec
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    scratch: Path
    reporter: Reporter

    @property
    def base(self) -> Path:
        assert self.spec.model_path is not None
        return Path(self.spec.model_path)

    def write_card(self, *, has_encoder: bool, filename: str | None = None) -> None:
        """Of a model whose sides are known: the base is not there for every adapter."""
        has_settings = (self.folder / GENERATION_CONFIG_NAME).is_file()
        card = ExportCard(self.spec, has_encoder, filename, has_settings)
        (self.folder / "README.md").write_text(card.in_markdown(), encoding="utf-8")

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end what the model says: of its settings, its tokenizer and its template."""
        own = stop_ids(self.base, load_config(self.base))
        make = partial(
            encoder_type(has_encoder=_has_encoder(self.base)),
            self.tokenizer,
            train_on="assistant",
            stop_ids=own,
        )
        try:
            return make(Layout(_template(self.tokenizer))).ends
        except TemplateError:
            return make(Layout(None)).ends

    def settings(self) -> GenerationConfig | None:
        """Of generation, where those of the base will not do."""
        roles = roles_of(self.tokenizer, self.spec.training.model)
        return settings_after(self.base, load_config(self.base), self.stop_ids, roles)


def export(directory: RunDirectory, spec: ExportSpec, reporter: Reporter) -> None:
    """Make what `spec` asks for, in `directory.result`.

    Raises:
        training.failures.RunError: With the reason, for the owner of the export.
        training.failures.StopRequested: A TERM ended the export before its result.
    """
    make = MAKERS[spec.export.made]
    tokenizer = _tokenizer(spec)
    scratch = directory.path / "scratch"
    remove_folder(scratch)
    try:
        with complete_folder(directory.result) as folder:
            make(_Making(spec, tokenizer, folder, scratch, reporter))
    finally:
        remove_folder(scratch)


def _make_adapter(making: _Making) -> None:
    """The adapter as it is; beside one of a checkpoint, what a result has."""
    making.reporter.enter("saving")
    assert making.spec.adapter_path is not None
    source = Path(making.spec.adapter_path)
    for name in _ADAPTER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, making.folder / name)
    check_adapter(making.folder, shapes_of(source))
    check_learned(making.folder)
    making.tokenizer.save_pretrained(making.folder)
    if making.spec.step is not None:
        write_settings(making.folder, making.settings())
    if not (making.folder / "README.md").is_file():
        task = PeftConfig.from_pretrained(str(source)).task_type
        making.write_card(has_encoder=task == TaskType.SEQ_2_SEQ_LM)


def _make_merged(making: _Making) -> None:
    _merger(making, making.spec.export.dtype).write(making.folder, making.reporter)
    making.write_card(has_encoder=_has_encoder(making.base))


def _make_gguf(making: _Making) -> None:
    spec, outtype = making.spec, making.spec.export.outtype
    check_architecture(making.base)
    _merger(making, PRECISIONS[outtype].merged).write(making.scratch, making.reporter)
    making.reporter.enter("converting")
    target = making.folder / f"{spec.stem}-{outtype}.gguf"
    write_gguf(making.scratch, target, outtype, name=spec.name, stop_ids=making.stop_ids)
    check_and_tell(target, making.scratch, making.tokenizer, outtype, making.reporter)
    making.write_card(has_encoder=_has_encoder(making.base), filename=target.name)


MAKERS: Mapping[Content, Callable[[_Making], None]] = MappingProxyType(
    {"adapter": _make_adapter, "merged": _make_merged, "gguf": _make_gguf}
)


def _merger(making: _Making, dtype: Any) -> Merger:  # noqa: ANN401 - one of a few words
    spec = making.spec
    return Merger(
        base=making.base,
        adapter=None if spec.adapter_path is None else Path(spec.adapter_path),
        tokenizer=making.tokenizer,
        dtype=dtype,
        max_shard_size=spec.export.max_shard_size,
        settings=making.settings(),
    )


def _tokenizer(spec: ExportSpec) -> PreTrainedTokenizerBase:
    """The tokenizer that was trained with, and its template."""
    if spec.step is None and spec.adapter_path is not None:
        return _tokenizer_beside(Path(spec.adapter_path))
    assert spec.model_path is not None
    base = Path(spec.model_path)
    tokenizer = load_vocabulary(base, spec.training.model).tokenizer
    if spec.step is not None:
        layout = choose_layout(
            tokenizer, spec.training.data, set(spec.formats), has_encoder=_has_encoder(base)
        )
        if layout.template is not None:
            tokenizer.chat_template = layout.template
    return tokenizer


def _template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """That of conversations without tools, where there are several."""
    templates: Any = tokenizer.chat_template
    return templates.get("default") if isinstance(templates, Mapping) else templates


def _has_encoder(base: Path) -> bool:
    return bool(load_config(base).is_encoder_decoder)


def _tokenizer_beside(adapter: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            adapter, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            "file_missing",
            "The adapter has no tokenizer beside it.",
            fault="infrastructure",
            remedy="Export it again from a result that is whole.",
        ) from error
    return tokenizer
