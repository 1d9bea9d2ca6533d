"""YAML for LLaMA-Factory."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Tunesmith
from tests.cli.imports import LLAMA_FACTORY, at, imported, noted


def test_a_data_set_of_llama_factory_is_found_by_its_name(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    (tmp_path / "lf").mkdir()
    info = {"mine": {"file_name": "mine.json"}, "hub": {"hf_hub_url": "x/y"}}
    (tmp_path / "lf" / "dataset_info.json").write_text(json.dumps(info))
    text = "model_name_or_path: m\ndataset_dir: lf\ndataset: mine, hub\n"
    job, err = imported(tunesmith, text)
    assert job["training_files"] == [{"file": "lf/mine.json"}, {"file": "hub"}]
    assert noted(err) == {"dataset"}


def test_what_llama_factory_says_of_a_data_set_is_noted(tunesmith: Tunesmith) -> None:
    said = {"columns": {"prompt": "q"}, "tags": {"role_tag": "r"}, "num_samples": 5, "subset": "x"}
    info = {"mine": {"file_name": "mine.json", "formatting": "sharegpt", **said}, "odd": "text"}
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps(info))
    job, err = imported(tunesmith, "model_name_or_path: m\ndataset: mine,odd\n")
    assert job["training_files"] == [{"file": "data/mine.json"}, {"file": "odd"}]
    keys = {"formatting", *said}
    assert noted(err) == {"dataset", *(f"dataset_info.json[mine].{key}" for key in keys)}


@pytest.mark.parametrize(
    ("said", "packing"),
    [
        ("packing: false\nneat_packing: true", True),
        ("neat_packing: true\npacking: false", True),
        ("neat_packing: true", True),
        ("packing: true\nneat_packing: false", True),
        ("packing: false\nneat_packing: false", False),
        ("neat_packing: false", None),
    ],
)
def test_packing_of_llama_factory_has_two_keys(
    tunesmith: Tunesmith, said: str, *, packing: bool | None
) -> None:
    job, err = imported(tunesmith, f"model_name_or_path: m\ndataset: a.json\n{said}\n")
    assert at(job["training"], "data.packing") is packing
    assert noted(err) == set()


def test_odd_values_of_llama_factory_are_no_accident(tunesmith: Tunesmith) -> None:
    text = "model_name_or_path: m\ndataset: 5\nlora_target: 3\nreport_to: 5\nrun_name: [a]\n"
    job, err = imported(tunesmith, f"{text}finetuning_type: [full]\n")
    assert job["training_file"] == "5"
    assert job["training"]["adapter"]["target_modules"] == ["3"]
    assert noted(err) == {"dataset", "report_to", "run_name", "finetuning_type"}


def test_numbers_in_quotes_for_llama_factory(tunesmith: Tunesmith) -> None:
    text = """
model_name_or_path: "7"
dataset: "1e3.json"
lora_rank: "4"
lora_target: "3"
quantization_bit: "8"
val_size: "0.25"
max_samples: "100"
run_name: "010"
"""
    job, err = imported(tunesmith, text)
    assert (job["model"], job["training_file"], job["suffix"]) == ("7", "1e3.json", "010")
    training = job["training"]
    assert training["adapter"]["target_modules"] == ["3"]
    assert (training["adapter"]["r"], training["adapter"]["lora_alpha"]) == (4, 8)
    assert training["model"]["quantization"] == {"bits": 8}
    assert training["data"]["eval_split"] == 0.25
    assert noted(err) == {"run_name"}


@pytest.mark.parametrize(
    ("said", "rows", "keys"),
    [
        ("dataset: a.json", (9, None), set()),
        ("dataset: a.json\neval_dataset: b.json", (9, 9), set()),
        ("dataset: a.json,b.json,c.json", (27, None), {"max_samples"}),
        ("dataset: a.json\nval_size: 0.3333", (6, 3), set()),
        ("dataset: [a.json, b.json]\nval_size: 0.5", (9, 9), {"max_samples"}),
        ("dataset: a.json\nval_size: 100", (9, None), {"val_size"}),
    ],
)
def test_llama_factory_takes_so_many_rows_of_each_data_set(
    tunesmith: Tunesmith, said: str, rows: tuple[int, int | None], keys: set[str]
) -> None:
    job, err = imported(tunesmith, f"model_name_or_path: m\n{said}\nmax_samples: 9\n")
    data = job["training"]["data"]
    assert (data["max_train_rows"], data.get("max_eval_rows")) == rows
    assert noted(err) == keys


def test_rows_that_are_too_long_for_llama_factory_are_cut(tunesmith: Tunesmith) -> None:
    job, err = imported(tunesmith, f"{LLAMA_FACTORY}cutoff_len: 64\n")
    assert job["training"]["data"] == {"max_length": 64, "overlong": "truncate_end"}
    assert "cutoff_len: a row that is too long loses its end" in err


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("image_max_pixels: 9", "rows are texts"),
        ("freeze_vision_tower: true", "rows are texts"),
        ("use_galore: true", 'set optimization.optim to "galore_adamw"'),
        ("use_apollo: true", 'set optimization.optim to "apollo_adamw"'),
        ("galore_target: all", "set optimization.optim_target_modules"),
        ("galore_rank: 8", "set optimization.optim_args"),
        ("apollo_scale: 8", "set optimization.optim_args"),
        ("finetuning_type: freeze", "lora and full are trained here; the job trains lora"),
        ("save_only_model: true", "a checkpoint can always be resumed"),
    ],
)
def test_a_key_of_llama_factory_has_its_own_reason(
    tunesmith: Tunesmith, said: str, reason: str
) -> None:
    _, err = imported(tunesmith, f"{LLAMA_FACTORY}{said}\n")
    assert noted(err) == {said.partition(":")[0]}
    assert f": {reason}" in err
