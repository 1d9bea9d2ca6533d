"""Exports by their run directory: of a result and of a checkpoint, into every form."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny_t5 import make_tiny_t5
from tests.training.runs import events, prepare, train
from training.config import TrainingConfig
from training.events import EventWriter, Failure, Finished, Progress
from training.export_config import ExportConfig
from training.export_process import finish_export
from training.export_run import _tokenizer
from training.export_spec import ExportSpec
from training.probing import logits_of, probe_of
from training.reporting import Reporter
from training.run_directory import RunDirectory, verify

SETTINGS: dict[str, Any] = {
    "optimization": {"max_steps": 4, "learning_rate": 0.01},
    "checkpoints": {"save_steps": 2, "keep": 2},
    "data": {"template": "chatml"},
}
CONFIG = TrainingConfig.model_validate({"model": {"dtype": "float32"}, **SETTINGS})


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = prepare(tmp_path_factory.mktemp("run"), tiny_model, SETTINGS)
    assert train(directory).outcome == "succeeded"
    return directory


@pytest.fixture(scope="module")
def trained_whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    settings = SETTINGS | {"adapter": {"type": "none"}}
    directory = prepare(tmp_path_factory.mktemp("whole"), tiny_model, settings)
    assert train(directory).outcome == "succeeded"
    return directory


def make(
    folder: Path, kind: str, model: Path | None, adapter: Path | None, **spec: Any
) -> RunDirectory:
    """A directory in which an export was done."""
    options = {key: spec.pop(key) for key in ("dtype", "outtype") if key in spec}
    directory = RunDirectory(folder)
    folder.mkdir()
    directory.write_export(
        ExportSpec(
            export=ExportConfig.model_validate({"kind": kind, **options}),
            model_path=None if model is None else str(model),
            adapter_path=None if adapter is None else str(adapter),
            base_model="tiny",
            name="ft:tiny:acme::1",
            **{"training": CONFIG, "formats": ["messages"], **spec},
        )
    )
    writer = EventWriter(directory.events_file)
    reporter = Reporter(writer)
    reporter.emit(finish_export(directory, reporter))
    writer.close()
    return directory


def finished(directory: RunDirectory) -> Finished:
    last = events(directory)[-1]
    assert isinstance(last, Finished)
    return last


def failure(directory: RunDirectory) -> Failure:
    found = finished(directory).failure
    assert found is not None
    assert not directory.result.exists()
    return found


def answers(folder: Path, model: Any) -> torch.Tensor:
    return logits_of(model, probe_of(AutoTokenizer.from_pretrained(folder)))


def adapted(model: Path, adapter: Path) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter))


@pytest.mark.parametrize("step", [None, 2])
def test_merged(trained: RunDirectory, tiny_model: Path, tmp_path: Path, step: int | None) -> None:
    adapter = trained.result if step is None else trained.checkpoint(step)
    done = make(tmp_path / "export", "merged", tiny_model, adapter, step=step)
    assert finished(done).outcome == "succeeded"
    assert verify(done.result)
    model = AutoModelForCausalLM.from_pretrained(done.result, dtype=torch.float32)
    expected = answers(done.result, adapted(tiny_model, adapter))
    assert (answers(done.result, model) - expected).abs().max() < 1e-5
    other = trained.checkpoint(2) if step is None else trained.result
    assert (
        answers(done.result, model) - answers(done.result, adapted(tiny_model, other))
    ).norm() > 0.1
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (done.result, trained.result))
    assert ours.get_chat_template() == theirs.get_chat_template()
    phases = [event.phase for event in events(done) if isinstance(event, Progress)]
    assert phases == ["starting", "loading_model", "merging", "saving", "checking"]
    card = (done.result / "README.md").read_text()
    assert "library_name: transformers" in card
    assert ("step 2 of the training" in card) == (step == 2)
    assert {path.name for path in done.path.iterdir()} == {"export.json", "events.jsonl", "result"}


@pytest.mark.parametrize("step", [None, 2])
def test_adapter(trained: RunDirectory, tiny_model: Path, tmp_path: Path, step: int | None) -> None:
    adapter = trained.result if step is None else trained.checkpoint(step)
    done = make(tmp_path / "export", "adapter", tiny_model, adapter, step=step)
    names = {path.name for path in done.result.iterdir()}
    assert names >= {path.name for path in trained.result.iterdir()}
    assert not [name for name in names if name.endswith(".pt")]
    same = "adapter_model.safetensors"
    assert (done.result / same).read_bytes() == (adapter / same).read_bytes()
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (done.result, trained.result))
    assert ours.get_chat_template() == theirs.get_chat_template()
    if step is None:
        card = "README.md"
        assert (done.result / card).read_text() == (trained.result / card).read_text()


def test_an_adapter_alone_needs_no_base(trained: RunDirectory, tmp_path: Path) -> None:
    bare = tmp_path / "adapter"
    shutil.copytree(trained.result, bare, ignore=shutil.ignore_patterns("README.md"))
    done = make(tmp_path / "export", "adapter", None, bare)
    assert finished(done).outcome == "succeeded"
    assert "AutoModelForCausalLM" in (done.result / "README.md").read_text()


@pytest.mark.parametrize("outtype", ["f32", "q8_0"])
def test_gguf(trained: RunDirectory, tiny_model: Path, tmp_path: Path, outtype: str) -> None:
    done = make(tmp_path / "export", "gguf", tiny_model, trained.result, outtype=outtype)
    assert finished(done).outcome == "succeeded", finished(done)
    assert not (done.path / "scratch").exists()
    (file,) = done.result.glob("*.gguf")
    assert file.name == f"ft-tiny-acme-1-{outtype}.gguf"
    assert f"llama-cli -m {file.name}" in (done.result / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(
        done.result, gguf_file=file.name, dtype=torch.float32
    )
    expected = answers(trained.result, adapted(tiny_model, trained.result))
    apart = (answers(trained.result, model) - expected).norm() / expected.norm()
    assert apart < (1e-5 if outtype == "f32" else 0.05)


def test_a_model_trained_whole(
    trained_whole: RunDirectory, tiny_model: Path, tmp_path: Path
) -> None:
    done = make(tmp_path / "merged", "merged", trained_whole.result, None, dtype="float32")
    assert finished(done).outcome == "succeeded"
    model, trained = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (done.result, trained_whole.result)
    )
    assert torch.equal(answers(done.result, model), answers(done.result, trained))
    assert "all its weights trained" in (done.result / "README.md").read_text()


def test_what_cannot_be_is_told_and_leaves_nothing(
    trained: RunDirectory, tiny_model: Path, tmp_path: Path
) -> None:
    nowhere = make(tmp_path / "1", "merged", tmp_path, trained.result)
    assert failure(nowhere).code == "model_not_loadable"
    missing = make(tmp_path / "2", "adapter", tiny_model, tmp_path / "nothing")
    assert failure(missing).code == "file_missing"
    with pytest.raises(ValueError, match="there is no adapter"):
        make(tmp_path / "3", "adapter", tiny_model, None)
    (tmp_path / "3" / "export.json").write_text("{}")
    writer = EventWriter(tmp_path / "3" / "events.jsonl")
    ended = finish_export(RunDirectory(tmp_path / "3"), Reporter(writer))
    writer.close()
    assert ended.failure is not None
    assert ended.failure.code == "invalid_spec"


@pytest.mark.slow
def test_the_command(trained: RunDirectory, tiny_model: Path, tmp_path: Path) -> None:
    directory = make(tmp_path / "export", "merged", tiny_model, trained.result)
    expected = sorted(path.name for path in directory.result.iterdir())
    command = [sys.executable, "-m", "training", "export", str(directory.path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert done.returncode == 0
    assert sorted(path.name for path in directory.result.iterdir()) == expected


def test_a_checkpoint_has_the_template_that_it_was_trained_with(tiny_model: Path) -> None:
    spec = ExportSpec.model_validate(
        {
            "export": {"kind": "merged"},
            "model_path": str(tiny_model),
            "adapter_path": "/nowhere",
            "base_model": "tiny",
            "name": "x",
            "step": 2,
            "training": {"data": {"template": "alpaca"}},
            "formats": ["instruct"],
        }
    )
    assert "### Response:" in str(_tokenizer(spec).chat_template)


@pytest.mark.parametrize("template", ["auto", "alpaca_seq2seq"])
def test_a_checkpoint_of_a_model_with_an_encoder(tmp_path: Path, template: str) -> None:
    base = make_tiny_t5(tmp_path / "base")
    settings = SETTINGS | {"data": {"template": template}}
    rows = [{"instruction": "Add!", "input": f"{n} and 1", "output": "It is so."} for n in range(9)]
    trained = prepare(tmp_path / "run", base, settings, rows=rows, format="instruct")
    assert train(trained).outcome == "succeeded"
    config = TrainingConfig.model_validate(settings)
    done = make(
        tmp_path / "export",
        "merged",
        base,
        trained.checkpoint(2),
        step=2,
        training=config,
        formats=["instruct"],
        dtype="bfloat16",
    )
    assert finished(done).outcome == "succeeded", finished(done).failure
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (done.result, trained.result))
    assert ours.chat_template == theirs.chat_template
    card = (done.result / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM.from_pretrained(FOLDER)" in card
    assert "pipeline_tag: text2text-generation" in card
