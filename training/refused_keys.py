"""Keys of vigogne, transformers and their neighbours that a service must not honour, in one table.

Each names what takes its place. A value that asks for nothing, or for what is done in any case,
is let through: a configuration need not be cleaned of `trust_remote_code: false`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from training.refusal import HUB, SERVICE, Refusal
from training.trainer_arguments import TRAINER_ARGUMENTS

_CODE = Refusal("code from a model's folder is never run; add a model that transformers knows")
_PLACE = Refusal(
    "the service keeps the results; fetch them at GET /v1/fine_tuning/jobs/{id}/adapter"
)
_RESUMED = Refusal(
    "a job goes on from its newest checkpoint by itself; to start from another one, "
    "name it as `model`, e.g. ft:…:ckpt-step-100"
)
_MERGED = "a merged model is made by POST /v1/fine_tuning/jobs/{id}/exports, after the job"
_FILES = Refusal(
    "paths are not read; upload the file at POST /v1/files and name its id as `training_file`"
)
_VALID_FILE = Refusal(
    "paths are not read; upload the file at POST /v1/files and name its id as `validation_file`"
)
_MODEL = Refusal("the model is named beside `training`, as `model`: one of GET /v1/models")
_REVISION = Refusal("a model's revision is pinned when it is added at POST /v1/models")
_TOKENIZER = Refusal("a model is trained with the tokenizer of its own folder")
_CACHE = Refusal("prepared data is kept and reused by what shaped it; leave it out")
_FSDP = 'set parallelism.strategy to "fsdp" instead'
_FSDP_UNUSED = {
    "min_num_params": 0,
    "xla": False,
    "xla_fsdp_v2": False,
    "xla_fsdp_grad_ckpt": False,
}
"""What transformers writes down of FSDP where nobody asks for it."""
_EVALUATION = Refusal(
    "held-out rows are evaluated, by evaluation.eval_steps, if there are any: "
    "validation_file or data.eval_split",
    (None, False, "no", "steps"),
)
_BY_STEPS = (None, "steps")
_ALWAYS = (None, True)
_ANYWAY = (None, False, True)

REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {
        **TRAINER_ARGUMENTS,
        # Code, paths and secrets
        "trust_remote_code": _CODE,
        "output_dir": _PLACE,
        "overwrite_output_dir": _PLACE,
        "logging_dir": Refusal("its files are at GET …/jobs/{id}/trackers/tensorboard"),
        "config_path": Refusal("the whole configuration is at GET …/jobs/{id}/spec"),
        "resume_from_checkpoint": _RESUMED,
        "hub_token": Refusal(HUB.words, (None, False, "<HUB_TOKEN>")),
        "hub_model_id": HUB,
        "hub_strategy": Refusal(HUB.words, (None, False, "every_save")),
        "hub_private_repo": HUB,
        "push_to_hub": HUB,
        "token": Refusal("a worker has its own credentials; leave it out"),
        "use_auth_token": Refusal("a worker has its own credentials; leave it out"),
        "save_safetensors": Refusal("weights are kept as safetensors, never pickled", _ALWAYS),
        # What stands beside `training`
        "model_name_or_path": _MODEL,
        "model_revision": _REVISION,
        "model_type": Refusal(
            "a model's own configuration says whether it has an encoder", (None, "decoder-only")
        ),
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
        "tokenizer_use_fast": Refusal("tokenizers are always fast ones (tokenizer.json)", _ANYWAY),
        "tokenizer_legacy": _TOKENIZER,
        "tokenizer_padding_side": Refusal("batches are padded on the right", (None, "right")),
        # Preparation of the data
        "overwrite_cache": _CACHE,
        "prepared_dataset_path": _CACHE,
        "preprocessing_num_workers": SERVICE,
        "preprocessing_only": Refusal("a file is checked when it is uploaded; leave it out"),
        "model_max_length_percentile": Refusal("set data.max_length, in tokens"),
        "model_max_source_length_percentile": Refusal("set data.max_length, in tokens"),
        "model_max_target_length_percentile": Refusal("set data.max_length, in tokens"),
        "dataloader_num_workers": SERVICE,
        "dataloader_pin_memory": SERVICE,
        "dataloader_drop_last": Refusal("every row is trained on"),
        # Phases and intervals
        "do_train": Refusal("a job trains", _ANYWAY),
        "do_eval": Refusal(
            "held-out rows are evaluated if there are any: validation_file or data.eval_split",
            _ANYWAY,
        ),
        "do_predict": Refusal("evaluation.sample_prompts are answered at each evaluation"),
        "evaluation_strategy": _EVALUATION,
        "eval_strategy": _EVALUATION,
        "save_strategy": Refusal("the state is saved by checkpoints.save_steps", _BY_STEPS),
        "logging_strategy": Refusal("metrics are sent by reporting.logging_steps", _BY_STEPS),
        "logging_first_step": Refusal("the first step is always logged", _ANYWAY),
        "log_level": SERVICE,
        "disable_tqdm": SERVICE,
        # Results
        "do_merge_lora": Refusal(_MERGED),
        "max_shard_size": Refusal(_MERGED, (None, "10GB")),
        # Processes and devices
        "fsdp": Refusal(_FSDP, (None, False, "", [])),
        "fsdp_config": Refusal(_FSDP, (None, {}, _FSDP_UNUSED)),
        "ddp_find_unused_parameters": Refusal("whether a weight takes no part is found out"),
        "gradient_checkpointing_kwargs": TRAINER_ARGUMENTS["activation_checkpointing_kwargs"],
        "local_rank": Refusal(
            "processes are started by the worker: parallelism.num_processes", (None, -1, 0)
        ),
        "no_cuda": Refusal('set resources to {"gpus": 0} beside `training`'),
        "use_cpu": Refusal('set resources to {"gpus": 0} beside `training`'),
        "predict_with_generate": Refusal(
            "evaluation.sample_prompts are answered at each evaluation"
        ),
    }
)
