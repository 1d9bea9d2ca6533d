"""The command that Tunesmith stands for, posted in the names of vigogne 2.1 and of 2.2."""

from collections.abc import Iterator
from typing import Any

import pytest

from jobs.service import claims
from tests.api.deployment import Client, Deployment, ok, refused, serving
from tests.jobs.world import FACTS, offer, settings_in
from tests.vigogne import CANONICAL, FLAT, SEVEN
from training.config import TrainingConfig

ROWS = b'{"instruction": "Traduis.", "input": "le chat", "output": "the cat"}\n' * 3
WANDB = {"integrations": [{"type": "wandb", "wandb": {"project": "vigogne"}}]}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with serving(settings_in(tmp_path_factory.mktemp("vigogne"))) as made:
        facts = {"context_length": 4096, "linear_modules": tuple(SEVEN), "has_chat_template": False}
        made.model("llama-2-7b", FACTS.model_copy(update=facts))
        made.model("flan-t5", FACTS.model_copy(update={**facts, "is_encoder_decoder": True}))
        yield made


@pytest.fixture
def file(deployment: Deployment) -> Iterator[tuple[Client, str]]:
    client = deployment.project()
    with client.http:
        yield client, client.upload(ROWS)["id"]


def post(file: tuple[Client, str], training: dict[str, Any], **body: Any) -> Any:
    client, training_file = file
    request = {"model": "llama-2-7b", "training_file": training_file, "training": training}
    request |= {"resources": {"pool": client.pool}, **body}
    return client.http.post("/fine_tuning/jobs", json=request)


@pytest.mark.parametrize("version", FLAT)
def test_the_command_is_a_job_that_waits_for_a_gpu(
    deployment: Deployment, file: tuple[Client, str], version: str
) -> None:
    flat = {**FLAT[version], "report_to": ["tensorboard", "wandb"]}
    job = ok(post(file, flat, **WANDB))
    client, _ = file
    expected = TrainingConfig.model_validate(CANONICAL).model_dump(mode="json")
    expected["data"]["max_length"] = 2048  # what has room in a block
    expected["parallelism"]["num_processes"] = 1  # what a job that names none has
    assert job["training"] == expected
    assert job["integrations"][0]["wandb"]["project"] == "vigogne"
    without = offer(f"cpu-{version}", pool=client.pool)
    with deployment.db.writing() as session:
        claims.register(session, without)
    assert deployment.claim(without) is None
    reason = client.job(job["id"])["queue"]["reason"]
    assert reason == f"no worker of pool {client.pool} offers c++ and cuda"
    able = offer(f"gpu-{version}", pool=client.pool, gpus=1, provides="c++,cuda")
    claimed = deployment.claim(able)
    assert claimed is not None
    assert claimed.job_id == job["id"]

    spec = ok(client.http.get(f"/fine_tuning/jobs/{job['id']}/spec"))
    assert spec["training"] == expected
    changed = client.http.post(
        f"/fine_tuning/jobs/{job['id']}/rerun", json={"training": {"lora_r": 8}}
    )
    assert ok(changed)["training"]["adapter"]["r"] == 8


def test_a_tracker_that_is_an_integration_is_asked_for_there(file: tuple[Client, str]) -> None:
    for training in ({"report_to": "wandb"}, {"reporting": {"report_to": ["wandb"]}}):
        error = refused(post(file, training), 400)
        assert error["param"] == f"training.{'reporting.' * ('reporting' in training)}report_to"
        assert '"type": "wandb"' in error["message"]
        job = ok(post(file, training, **WANDB))
        assert job["training"]["reporting"]["report_to"] == []


@pytest.mark.parametrize(
    ("training", "param", "words"),
    [
        ({"trust_remote_code": True}, "trust_remote_code", "never run"),
        ({"output_dir": "/data/vigogne"}, "output_dir", "/adapter"),
        ({"checkpoints": {"output_dir": "x"}}, "checkpoints.output_dir", "/adapter"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint", "ckpt-step-"),
        ({"train_file": "data/chat.txt"}, "train_file", "POST /v1/files"),
        ({"seed": 3}, "seed", "beside `training`"),
        ({"generation_max_length": 128}, "generation_max_length", "sample_max_new_tokens"),
        ({"max_source_length": 512}, "max_source_length", "data.max_length"),
    ],
)
def test_what_a_service_does_not_honour_is_refused_with_what_takes_its_place(
    file: tuple[Client, str], training: dict[str, Any], param: str, words: str
) -> None:
    error = refused(post(file, training), 400)
    assert (error["param"], error["code"]) == (f"training.{param}", "unsupported_key")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("model", "training", "param", "words"),
    [
        ("llama-2-7b", {"processor_style": "alpaca_seq2seq"}, "template", "with an encoder"),
        ("flan-t5", {"processor_style": "alpaca"}, "template", "without an encoder"),
        ("flan-t5", {"template": "vigogne_chat_v3"}, "template", "without an encoder"),
        ("flan-t5", {"pack_into_block": True}, "packing", "to false"),
        ("flan-t5", {"train_on": "everything"}, "train_on", "takes no loss"),
        ("flan-t5", {"overlong": "split"}, "overlong", "truncate_prompt"),
    ],
)
def test_a_layout_that_is_not_for_the_model_is_refused_when_the_job_comes(
    file: tuple[Client, str], model: str, training: dict[str, Any], param: str, words: str
) -> None:
    error = refused(post(file, training, model=model), 400)
    assert error["param"] == f"training.data.{param}"
    assert words in error["message"]


def test_a_layout_that_is_for_the_model_is_kept(file: tuple[Client, str]) -> None:
    job = ok(post(file, {"processor_style": "alpaca_seq2seq"}, model="flan-t5"))
    assert job["training"]["data"]["template"] == "alpaca_seq2seq"


@pytest.mark.parametrize("mode", ["instruct", "chat"])
def test_lines_of_text_are_neither_instructions_nor_talks(
    file: tuple[Client, str], mode: str
) -> None:
    """vigogne goes by the suffix, and finds out while it trains."""
    client, _ = file
    texts = client.upload(b'{"text": "a"}\n' * 3)["id"]
    error = refused(post((client, texts), {"mode": mode}), 400)
    assert (error["param"], error["code"]) == ("training.data.format", "format_mismatch")


@pytest.mark.parametrize(
    ("row", "model", "training", "param"),
    [
        (
            b'{"prompt": "a", "completion": "b"}',
            "llama-2-7b",
            {"default_system": ""},
            "default_system",
        ),
        (b'{"text": "a"}', "flan-t5", {}, "format"),
    ],
)
def test_what_rows_do_not_have_is_refused(
    file: tuple[Client, str], row: bytes, model: str, training: dict[str, Any], param: str
) -> None:
    client, _ = file
    other = client.upload(row + b"\n")["id"]
    error = refused(post((client, other), training, model=model), 400)
    assert error["param"] == f"training.data.{param}"


def test_a_token_is_not_repeated(file: tuple[Client, str]) -> None:
    for training in ({"hub_token": "hf_secret"}, {"push_to_hub": True, "hub_token": "hf_secret"}):
        reply = post(file, training)
        assert "exports" in refused(reply, 400)["message"]
        assert "hf_secret" not in reply.text


def test_a_value_is_told_as_it_was_given(file: tuple[Client, str]) -> None:
    error = refused(post(file, {"load_in_8bit": "yes"}), 400)
    assert error["message"] == 'training.load_in_8bit should be true, false or null, but is "yes"'
    error = refused(post(file, {"warmup_ratio": 5}), 400)
    assert error["message"] == (
        "training.warmup_ratio should be a share of all steps, below 1 "
        "(warmup_steps is their number), but is 5"
    )
    error = refused(post(file, {"fp16": True, "bf16": True}), 400)
    assert error["message"] == (
        "training.bf16: sets the same thing as training.fp16; give one of them"
    )
