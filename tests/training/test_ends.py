"""What a model is taught to end an answer with ends it wherever the model is used.

The base here ends a text with one token and knows of no other; its template ends a turn with
another one. Its settings of generation are as unsound as those of well-known models: transformers
loads them, but refuses to save what was changed in them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationMixin, PreTrainedTokenizerBase

from tests.tiny_model import CHATML
from tests.training.runs import events, prepare, train
from training.config import TrainingConfig
from training.encoding import Encoder
from training.events import EventWriter, Message
from training.export_config import ExportConfig
from training.export_process import finish_export
from training.export_spec import ExportSpec
from training.layouts import Layout, alpaca_template
from training.reporting import Reporter
from training.run_directory import RunDirectory

TEXT_END, TURN_END = 0, 2
UNSOUND = {"temperature": 0.6, "do_sample": False}
SETTINGS: dict[str, Any] = {
    "optimization": {"max_steps": 2, "learning_rate": 0.01},
    "checkpoints": {"save_steps": 2, "keep": 2},
}
MARKED = CHATML.replace(
    "{{ message['content'] }}<|im_end|>\n",
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>\n"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}",
)
BLANKS = CHATML.replace(
    "{{ message['content'] }}<|im_end|>", "{{ message['content'] }}\n<|im_end|>"
)
REFUSING = "{{ raise_exception('not today') }}"


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unaware") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    for name, more in (("config.json", {}), ("generation_config.json", UNSOUND)):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | more | {"eos_token_id": TEXT_END}))
    return folder


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
    return tokenizer


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = prepare(tmp_path_factory.mktemp("run"), base, SETTINGS)
    assert train(directory).outcome == "succeeded"
    return directory


def stops(folder: Path) -> list[int]:
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings.items() >= UNSOUND.items()
    ids: list[int] = settings["eos_token_id"]
    return ids


def exported(
    folder: Path, kind: str, base: Path, adapter: Path, step: int | None = None
) -> RunDirectory:
    folder.mkdir()
    directory = RunDirectory(folder)
    directory.write_export(
        ExportSpec(
            export=ExportConfig.model_validate({"kind": kind}),
            model_path=str(base),
            adapter_path=str(adapter),
            base_model="tiny",
            name="ft:tiny:acme::1",
            training=TrainingConfig.model_validate(SETTINGS),
            formats=["messages"],
            step=step,
        )
    )
    writer = EventWriter(directory.events_file)
    finish_export(directory, Reporter(writer))
    writer.close()
    return directory


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        pytest.param(CHATML, {TEXT_END, TURN_END}, id="behind the content"),
        pytest.param(BLANKS, {TEXT_END, TURN_END}, id="behind a blank"),
        pytest.param(MARKED, {TEXT_END, TURN_END}, id="in a mark, with a blank"),
        pytest.param(alpaca_template(), {TEXT_END}, id="the end of sequence"),
        pytest.param(REFUSING, {TEXT_END}, id="no conversation"),
        pytest.param(None, {TEXT_END}, id="no template"),
    ],
)
@pytest.mark.parametrize("train_on", ["assistant", "everything"])
def test_what_a_template_ends_an_answer_with(
    tokenizer: PreTrainedTokenizerBase, template: str | None, ends: set[int], train_on: Any
) -> None:
    encoder = Encoder(tokenizer, Layout(template), train_on=train_on, stop_ids=())
    assert encoder.ends == ends


def test_an_adapter_says_where_it_stops(trained: RunDirectory) -> None:
    assert stops(trained.result) == [TEXT_END, TURN_END]
    settings = json.loads((trained.result / "generation_config.json").read_text())
    assert not settings.get("_from_model_config")
    assert "GenerationConfig.from_pretrained(FOLDER)" in (trained.result / "README.md").read_text()
    told = [event.data for event in events(trained) if isinstance(event, Message)]
    assert {"ends": ["<|im_end|>"]} in told


def test_an_adapter_of_a_base_that_knows_has_no_settings(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, SETTINGS)
    assert train(directory).outcome == "succeeded"
    assert not (directory.result / "generation_config.json").exists()
    assert "GenerationConfig" not in (directory.result / "README.md").read_text()


def test_a_model_trained_whole_stops(base: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, base, SETTINGS | {"adapter": {"type": "none"}})
    assert train(directory).outcome == "succeeded"
    assert stops(directory.result) == [TEXT_END, TURN_END]


def test_samples_stop(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, asked = GenerationMixin.generate, []

    def recorded(model: GenerationMixin, *inputs: Any, **options: Any) -> Any:
        asked.append(options["eos_token_id"])
        return generate(model, *inputs, **options)  # type: ignore[misc]

    monkeypatch.setattr(GenerationMixin, "generate", recorded)
    evaluation = {"eval_steps": 2, "sample_prompts": ["Red?"], "sample_max_new_tokens": 2}
    settings = SETTINGS | {"evaluation": evaluation, "data": {"eval_split": 0.1}}
    assert train(prepare(tmp_path, base, settings)).outcome == "succeeded"
    assert asked
    assert all(ids == [TEXT_END, TURN_END] for ids in asked)


@pytest.mark.parametrize(
    ("template", "ends"),
    [({"default": CHATML, "tool_use": MARKED}, [TEXT_END, TURN_END]), ("{% if %}", [TEXT_END])],
    ids=["several", "broken"],
)
def test_an_export_of_rows_without_a_template(
    base: Path, tmp_path: Path, template: Any, ends: list[int]
) -> None:
    """Whatever templates the base has are kept as they are."""
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    rows = [{"prompt": str(number), "completion": "more"} for number in range(9)]
    run = prepare(tmp_path / "run", folder, SETTINGS, rows=rows, format="prompt_completion")
    assert train(run).outcome == "succeeded"
    done = exported(tmp_path / "export", "merged", folder, run.result)
    assert stops(done.result) in (ends, ends[0])


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_padding_that_a_job_adds_is_said_as_well(
    base: Path, tmp_path: Path, adapter: str
) -> None:
    model = {"add_special_tokens": {"pad_token": "<pad>"}, "dtype": "float32"}
    directory = prepare(tmp_path, base, SETTINGS | {"adapter": {"type": adapter}, "model": model})
    assert train(directory).outcome == "succeeded"
    settings = json.loads((directory.result / "generation_config.json").read_text())
    pad = AutoTokenizer.from_pretrained(directory.result).pad_token_id
    assert (settings["pad_token_id"], settings["eos_token_id"]) == (pad, [TEXT_END, TURN_END])


@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize("of", ["result", "checkpoint"])
def test_exports_stop(
    base: Path, trained: RunDirectory, tmp_path: Path, kind: str, of: str
) -> None:
    step = 2 if of == "checkpoint" else None
    adapter = trained.result if step is None else trained.checkpoint(step)
    directory = exported(tmp_path / "export", kind, base, adapter, step=step)
    assert stops(directory.result) == [TEXT_END, TURN_END]
    card = (directory.result / "README.md").read_text()
    assert ("GenerationConfig" in card) == (kind == "adapter")
