"""Keys of vigogne, transformers and their neighbours that a service must not honour, in one table.

Each names what takes its place. A value that asks for nothing, or for what is done in any case,
is let through: a configuration need not be cleaned of `trust_remote_code: false`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Refusal:
    """Why a key is refused.

    Attributes:
        words: What takes its place, as the rest of a sentence that begins with the key.
        harmless: Values that ask for nothing else than what is done.
    """

    words: str
    harmless: tuple[bool | str | None, ...] = (None, False)

    def allows(self, value: object) -> bool:
        return any(type(value) is type(each) and value == each for each in self.harmless)


_CODE = Refusal("code from a model's folder is never run; add a model that transformers knows")
_PLACE = Refusal(
    "the service keeps the results; fetch them at GET /v1/fine_tuning/jobs/{id}/adapter"
)
_RESUMED = Refusal(
    "a job goes on from its newest checkpoint by itself; to start from another one, "
    "name it as `model`, e.g. ft:…:ckpt-step-100"
)
_HUB = Refusal("a result goes to a hub by POST /v1/fine_tuning/jobs/{id}/exports, after the job")
_MERGED = Refusal("a merged model is made by POST /v1/fine_tuning/jobs/{id}/exports, after the job")
_FILES = Refusal(
    "paths are not read; upload the file at POST /v1/files and name its id as `training_file`"
)
_VALID_FILE = Refusal(
    "paths are not read; upload the file at POST /v1/files and name its id as `validation_file`"
)
_MODEL = Refusal("the model is named beside `training`, as `model`: one of GET /v1/models")
_REVISION = Refusal("a model's revision is pinned when it is added at POST /v1/models")
_KNOWN_KIND = Refusal("a model's own configuration says whether it has an encoder")
_TOKENIZER = Refusal("a model is trained with the tokenizer of its own folder")
_SERVICE = Refusal("the service decides that; leave it out", harmless=(None, False, True))
_CACHE = Refusal("prepared data is kept and reused by what shaped it; leave it out")
_FSDP = Refusal('set parallelism.strategy to "fsdp" instead')
_BY_STEPS = (None, "steps")
_ALWAYS = (None, True)

REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {
        # Code, paths and secrets
        "trust_remote_code": _CODE,
        "output_dir": _PLACE,
        "overwrite_output_dir": _PLACE,
        "logging_dir": Refusal("its files are at GET …/jobs/{id}/trackers/tensorboard"),
        "config_path": Refusal("the whole configuration is at GET …/jobs/{id}/spec"),
        "resume_from_checkpoint": _RESUMED,
        "hub_token": _HUB,
        "hub_model_id": _HUB,
        "hub_strategy": _HUB,
        "hub_private_repo": _HUB,
        "push_to_hub": _HUB,
        "token": Refusal("a worker has its own credentials; leave it out"),
        "use_auth_token": Refusal("a worker has its own credentials; leave it out"),
        "save_safetensors": Refusal("weights are kept as safetensors, never pickled", _ALWAYS),
        # What stands beside `training`
        "model_name_or_path": _MODEL,
        "model_revision": _REVISION,
        "model_type": _KNOWN_KIND,
        "train_file": _FILES,
        "eval_file": _VALID_FILE,
        "validation_file": _VALID_FILE,
        "seed": Refusal("it stands beside `training`, as `seed`"),
        "data_seed": Refusal("the order of the data follows from the job's `seed`"),
        "run_name": Refusal(
            "a job is named by `suffix` beside `training`, its run at W&B by "
            "integrations[0].wandb.name"
        ),
        # The tokenizer
        "tokenizer_name_or_path": _TOKENIZER,
        "tokenizer_revision": _TOKENIZER,
        "tokenizer_use_fast": Refusal("tokenizers are always fast ones (tokenizer.json)", _ALWAYS),
        "tokenizer_legacy": _TOKENIZER,
        "tokenizer_padding_side": Refusal("batches are padded on the right", (None, "right")),
        # Preparation of the data
        "overwrite_cache": _CACHE,
        "prepared_dataset_path": _CACHE,
        "preprocessing_num_workers": _SERVICE,
        "preprocessing_only": Refusal("a file is checked when it is uploaded; leave it out"),
        "model_max_length_percentile": Refusal("set data.max_length, in tokens"),
        "model_max_source_length_percentile": Refusal("set data.max_length, in tokens"),
        "model_max_target_length_percentile": Refusal("set data.max_length, in tokens"),
        "dataloader_num_workers": _SERVICE,
        "dataloader_pin_memory": _SERVICE,
        "dataloader_drop_last": Refusal("every row is trained on"),
        # Phases and intervals
        "do_train": Refusal("a job trains", _ALWAYS),
        "do_eval": Refusal(
            "held-out rows are evaluated if there are any: validation_file or data.eval_split",
            (None, False, True),
        ),
        "do_predict": Refusal("evaluation.sample_prompts are answered at each evaluation"),
        "evaluation_strategy": Refusal("evaluation goes by evaluation.eval_steps", _BY_STEPS),
        "eval_strategy": Refusal("evaluation goes by evaluation.eval_steps", _BY_STEPS),
        "save_strategy": Refusal("the state is saved by checkpoints.save_steps", _BY_STEPS),
        "logging_strategy": Refusal("metrics are sent by reporting.logging_steps", _BY_STEPS),
        "logging_first_step": Refusal("the first step is always logged", _ALWAYS),
        "log_level": _SERVICE,
        "disable_tqdm": _SERVICE,
        # Results
        "do_merge_lora": _MERGED,
        "max_shard_size": _MERGED,
        # Processes and devices
        "fsdp": _FSDP,
        "fsdp_config": _FSDP,
        "ddp_find_unused_parameters": Refusal("whether a weight takes no part is found out"),
        "gradient_checkpointing_kwargs": Refusal("layers are recomputed without reentrance"),
        "local_rank": Refusal("processes are started by the worker: parallelism.num_processes"),
        "no_cuda": Refusal('set resources to {"gpus": 0} beside `training`'),
        "use_cpu": Refusal('set resources to {"gpus": 0} beside `training`'),
        "predict_with_generate": Refusal(
            "evaluation.sample_prompts are answered at each evaluation"
        ),
    }
)
