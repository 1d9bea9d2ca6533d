"""A configuration of Axolotl as a job: what each of its keys means here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cli.errors import CliError
from cli.importing.axolotl_data import carry_datasets, carry_types
from cli.importing.draft import Draft, LeftOut, Rule, Settings, Value, chosen, left_out, silent, to
from cli.importing.values import (
    ALL_PARTS,
    ATTENTION,
    FSDP_SETTINGS,
    FULL,
    HUB,
    NOT_SENT,
    NUM_LOADERS,
    OFFLOAD,
    RESUMABLE,
    STRATEGY,
    TEXTS_ONLY,
    WORKERS_CHOICE,
    deepspeed,
    fsdp,
    in_front,
    leave_out_misfits,
    model,
    require_model_and_files,
    text,
    unquoted,
    valid,
)
from training.optimization_config import OptimizationConfig

_DATA = "training.data"
_ADAPTER = "training.adapter"
_TARGETS = f"{_ADAPTER}.target_modules"
_OPTIM = "training.optimization"
_TOKENIZER = left_out("a model is trained with the tokenizer of its own folder")
_WAY_TO_ATTEND = left_out("model.attn_implementation is sdpa, eager or flash_attention_2")
_LOSS_KERNEL = left_out("the loss is our own, and exact; model.use_liger_kernel has the others")
_SHARED = left_out("processes share a model by parallelism.strategy and num_processes")
_ANSWERED = left_out("evaluation.sample_prompts are answered at each evaluation")
_NOT_OFFLOADED = "layers are recomputed, not offloaded: optimization.gradient_checkpointing"


def _switch(settings: Settings, reason: str = "should be true or false") -> Rule:
    return chosen({True: settings, False: {}, None: {}}, reason)


def _val_set_size(value: Value) -> Settings:
    if isinstance(value, int | float) and value >= 1:
        raise LeftOut("a number of rows is not held out; give a share of them, at most 0.5")
    return {f"{_DATA}.eval_split": value}


def _tokens(value: Value) -> Settings:
    """Names of tokens, or, in older configurations, what each of them is for."""
    is_special = isinstance(value, Mapping)
    return {"training.add_special_tokens" if is_special else "training.add_tokens": value}


def _plugins(value: Value) -> Settings:
    """Liger's has keys of its own for what it does."""
    names = value if isinstance(value, list) else [] if value is None else [value]
    if any(not str(name).endswith(".LigerPlugin") for name in names):
        raise LeftOut("no plugin is run; what this is for may have a key of its own")
    return {}


def _target_modules(value: Value) -> Settings:
    if isinstance(value, str) and value != "all-linear":
        raise LeftOut("an expression is not read; name the modules in adapter.target_modules")
    return {_TARGETS: value}


_IMAGES = ("processor_type", "image_size", "image_resize_algorithm", "freeze_mm_modules")
_SHARES = (
    *("tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree"),
    *("expert_parallel_size", "dp_shard_size", "dp_replicate_size"),
)
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
_LIGER = ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm")

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        # The model and its tokenizer
        "base_model": model,
        "base_model_config": silent,
        "revision_of_model": left_out(
            "a revision is pinned when a model is added: `tunesmith models add --revision`"
        ),
        "model_type": silent,
        "is_llama_derived_model": silent,
        "is_mistral_derived_model": silent,
        "is_falcon_derived_model": silent,
        "is_qwen_derived_model": silent,
        "tokenizer_type": silent,
        "tokenizer_config": _TOKENIZER,
        "tokenizer_use_mistral_common": _TOKENIZER,
        "eot_tokens": left_out("the chat template says what ends a turn"),
        "tokens": _tokens,
        "special_tokens": to("training.add_special_tokens"),
        "bf16": chosen(
            {
                True: {"training.model.dtype": "bfloat16"},
                "full": {"training.model.dtype": "bfloat16"},
                "auto": {},
                False: {},
                None: {},
            },
            "should be true, false or auto",
        ),
        "fp16": _switch({"training.model.dtype": "float16"}),
        "float16": _switch({"training.model.dtype": "float16"}),
        "bfloat16": _switch({"training.model.dtype": "bfloat16"}),
        "float32": _switch({"training.model.dtype": "float32"}),
        "tf32": left_out("the worker decides how float32 is multiplied"),
        "flash_attention": _switch({ATTENTION: "flash_attention_2"}),
        "sdp_attention": _switch({ATTENTION: "sdpa"}),
        "eager_attention": _switch({ATTENTION: "eager"}),
        "xformers_attention": _WAY_TO_ATTEND,
        "flex_attention": _WAY_TO_ATTEND,
        "s2_attention": _WAY_TO_ATTEND,
        "liger_cross_entropy": _LOSS_KERNEL,
        "liger_fused_linear_cross_entropy": _LOSS_KERNEL,
        "cut_cross_entropy": _LOSS_KERNEL,
        "plugins": _plugins,
        "gptq": left_out("weights are quantized by bitsandbytes here"),
        "bnb_config_kwargs": left_out("set model.quantization.type and double_quant"),
        "unfrozen_parameters": left_out(
            "every weight is trained, or an adapter: adapter.layers_to_transform names its layers"
        ),
        **dict.fromkeys(_LIGER, _switch({"training.model.use_liger_kernel": True})),
        # The adapter
        "adapter": chosen(
            {
                "lora": {"training.adapter": "lora"},
                "qlora": {"training.adapter": "qlora"},
                "": {},
                None: {},
            },
            "adapters are of the type lora here",
        ),
        "lora_model_dir": left_out("to go on from an adapter, name the job's result as `model`"),
        "lora_target_linear": _switch({_TARGETS: "all-linear"}),
        "lora_target_modules": _target_modules,
        "lora_target_parameters": lambda value: {
            f"{_ADAPTER}.target_parameters": [value] if isinstance(value, str) else value
        },
        "lora_rank_pattern": to(f"{_ADAPTER}.rank_pattern"),
        "lora_alpha_pattern": to(f"{_ADAPTER}.alpha_pattern"),
        **dict.fromkeys(_KERNELS, left_out("LoRA's layers are fused wherever they can be")),
        "peft_layers_to_transform": to(f"{_ADAPTER}.layers_to_transform"),
        "peft_use_dora": to(f"{_ADAPTER}.use_dora"),
        "peft_use_rslora": to(f"{_ADAPTER}.use_rslora"),
        "peft_init_lora_weights": to(f"{_ADAPTER}.init_lora_weights"),
        "peft": left_out(
            'set adapter.init_lora_weights to "loftq", and model.quantization.bits to 4'
        ),
        # The data
        "dataset_prepared_path": left_out("prepared data is kept and reused by what shaped it"),
        "skip_prepare_dataset": left_out("rows are always prepared"),
        "dataset_processes": WORKERS_CHOICE,
        "dataset_num_proc": WORKERS_CHOICE,
        **NUM_LOADERS,
        "device_map": WORKERS_CHOICE,
        "ddp_timeout": WORKERS_CHOICE,
        "low_cpu_mem_usage": WORKERS_CHOICE,
        "hf_use_auth_token": left_out("a worker has its own token"),
        "val_set_size": _val_set_size,
        "sequence_len": to(f"{_DATA}.max_length"),
        "min_sample_len": to(f"{_DATA}.min_length"),
        "excess_length_strategy": chosen(
            {
                "drop": {f"{_DATA}.overlong": "drop"},
                "truncate": {f"{_DATA}.overlong": "truncate_end"},
                None: {},
            },
            "should be drop or truncate",
        ),
        "sample_packing": to(f"{_DATA}.packing"),
        "max_packed_sequence_len": left_out("set data.packing, and data.max_length to it"),
        "sample_packing_sequentially": left_out("packed blocks are always shuffled"),
        "curriculum_sampling": left_out(
            'set optimization.train_sampling_strategy to "sequential", and data.packing to false'
        ),
        **dict.fromkeys(_IMAGES, TEXTS_ONLY),
        "eval_sample_packing": left_out("held-out rows are never packed"),
        "pad_to_sequence_len": silent,
        "train_on_inputs": _switch({f"{_DATA}.train_on": "everything"}),
        "chat_template": chosen(
            {
                "chatml": {f"{_DATA}.template": "chatml"},
                "alpaca": {f"{_DATA}.template": "alpaca"},
                "tokenizer_default": {},
                None: {},
            },
            "the model's own chat template is used; data.template has others",
        ),
        "chat_template_jinja": left_out(
            "a model's template comes with it; data.template has others"
        ),
        "default_system_message": to(f"{_DATA}.default_system"),
        "shuffle_merged_datasets": silent,
        "shuffle_before_merging_datasets": silent,
        "noisy_embedding_alpha": to(f"{_OPTIM}.neftune_noise_alpha"),
        # Steps
        "num_epochs": to(f"{_OPTIM}.num_train_epochs"),
        "micro_batch_size": to(f"{_OPTIM}.per_device_train_batch_size"),
        "batch_size": left_out(
            "set optimization.gradient_accumulation_steps to it, divided by micro_batch_size"
        ),
        "eval_batch_size": to(f"{_OPTIM}.per_device_eval_batch_size"),
        "optimizer": to(f"{_OPTIM}.optim"),
        "lr_scheduler": to(f"{_OPTIM}.lr_scheduler_type"),
        "cosine_min_lr_ratio": left_out(
            'set optimization.lr_scheduler_type to "cosine_with_min_lr", and '
            "lr_scheduler_kwargs.min_lr_rate to it"
        ),
        "learning_rate": to(f"{_OPTIM}.learning_rate"),
        "warmup_ratio": to("training.warmup_ratio"),
        "weight_decay": to(f"{_OPTIM}.weight_decay"),
        "adam_epsilon": to(f"{_OPTIM}.adam_epsilon"),
        "gradient_checkpointing": chosen(
            {
                True: {f"{_OPTIM}.gradient_checkpointing": True},
                False: {f"{_OPTIM}.gradient_checkpointing": False},
                None: {},
            },
            _NOT_OFFLOADED,
        ),
        "activation_offloading": left_out(_NOT_OFFLOADED),
        "gradient_checkpointing_kwargs": left_out("layers are recomputed without reentrance"),
        # Evaluation, checkpoints, reports
        "evals_per_epoch": left_out("give a number of steps: evaluation.eval_steps"),
        "saves_per_epoch": left_out("give a number of steps: checkpoints.save_steps"),
        "save_only_model": RESUMABLE,
        "eval_max_new_tokens": _ANSWERED,
        "eval_table_size": _ANSWERED,
        "early_stopping_patience": to("training.evaluation.early_stopping_patience"),
        "auto_resume_from_checkpoints": silent,
        "debug": left_out("the worker's logs are at `tunesmith logs`"),
        "wandb_project": lambda value: (
            {"wandb.project": str(value), "wandb.is_asked": True} if value else {}
        ),
        "use_tensorboard": silent,
        "use_wandb": _switch({"wandb.is_asked": True}),
        "use_mlflow": _switch({"mlflow.is_asked": True}),
        "wandb_entity": text("wandb.entity"),
        "wandb_name": text("wandb.name"),
        "mlflow_experiment_name": lambda value: (
            {"mlflow.experiment": str(value), "mlflow.is_asked": True} if value else {}
        ),
        "mlflow_run_name": text("mlflow.name"),
        "mlflow_tracking_uri": left_out("a worker has its own server"),
        "wandb_run_id": NOT_SENT,
        "wandb_watch": NOT_SENT,
        "wandb_log_model": NOT_SENT,
        "hub_model_id": HUB,
        # Processes
        "deepspeed": deepspeed,
        "fsdp": fsdp,
        **dict.fromkeys(_SHARES, _SHARED),
        "fsdp_config": FSDP_SETTINGS,
        "fsdp_version": FSDP_SETTINGS,
        "local_rank": WORKERS_CHOICE,
        "strict": silent,
        "seed": to("seed"),
    }
)
_TEXTS = frozenset(
    {
        *("base_model", "datasets", "test_datasets", "default_system_message"),
        *("wandb_project", "wandb_entity", "wandb_name"),
        *("mlflow_experiment_name", "mlflow_run_name"),
    }
)
"""Keys whose values are texts, even where they look like numbers."""

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        f"{_DATA}.max_length": 512,
        f"{_OPTIM}.num_train_epochs": 1,
        f"{_OPTIM}.per_device_train_batch_size": 1,
    }
)


def draft_of(keys: Mapping[str, Any]) -> Draft:
    """The job that a configuration asks for.

    Raises:
        CliError: It asks for another way to train.
    """
    keys = unquoted(keys, _TEXTS)
    _refuse_other_methods(keys)
    draft = Draft(RULES)
    types: dict[str, Value] = {}
    for key, value in in_front(_FIRST, keys).items():
        if key in {"datasets", "test_datasets"}:
            types |= carry_datasets(draft, key, value)
        elif key != "rl":
            draft.carry(key, value)
    carry_types(draft, types)
    require_model_and_files(
        draft, no_model="base_model: no model is named in it", no_files=_no_files(keys)
    )
    draft.carry_by(_fsdp_of_config, "fsdp_config", keys.get("fsdp_config"))
    if not keys.get("adapter"):
        for path, value in FULL.items():
            draft.default(path, value)
        draft.note("adapter", "is missing: every weight is trained, as Axolotl does")
    _set_defaults(draft, keys)
    leave_out_misfits(draft)
    return draft


_FIRST = ("lora_target_linear", "warmup_steps")
"""Every linear layer includes those that are named; a number of steps goes before a ratio."""


def _refuse_other_methods(keys: Mapping[str, Value]) -> None:
    if method := keys.get("rl"):
        raise CliError(f"rl: Tunesmith trains supervised, not by {method}")
    if asked := [key for key in _OTHER_METHODS if keys.get(key)]:
        raise CliError(f"{asked[0]}: Tunesmith trains models that write text, word by word")


_OTHER_METHODS = ("reward_model", "process_reward_model", "diffusion")


def _no_files(keys: Mapping[str, Value]) -> str:
    """Why there is nothing to train on, where no file is named."""
    if keys.get("pretraining_dataset"):
        return (
            "pretraining_dataset: nothing is streamed; name a file of texts in `datasets`, of the "
            "type completion"
        )
    return "datasets: no file to train on is named in it"


def _fsdp_of_config(value: Value) -> Settings:
    """Settings of FSDP ask for it, as the second version of it has no other key."""
    if not isinstance(value, Mapping) or not value:
        return {}
    offloads = value.get("offload_params") or value.get("fsdp_offload_params")
    return {STRATEGY: "fsdp", OFFLOAD: ALL_PARTS if offloads else None}


def _set_defaults(draft: Draft, keys: Mapping[str, Any]) -> None:
    is_offloading = keys.get("gradient_checkpointing") in _OFFLOADING
    draft.default(f"{_OPTIM}.gradient_checkpointing", is_offloading)
    names_layers = not keys.get("adapter") or keys.get("lora_target_modules")
    if draft.value(f"{_ADAPTER}.target_parameters") and not names_layers:
        draft.default(_TARGETS, [])
    for path, value in DEFAULTS.items():
        draft.default(path, value)
    key = "per_device_train_batch_size"
    path = f"{_OPTIM}.{key}"
    size = valid(OptimizationConfig, key, draft.value(path), DEFAULTS[path])
    draft.default(f"{_OPTIM}.per_device_eval_batch_size", size)
    if not keys.get("bf16", "auto"):
        dtype = "float16" if keys.get("load_in_8bit") else "float32"
        draft.default("training.model.dtype", dtype)


_OFFLOADING = ("unsloth", "offload", "offload_disk")
"""Ways to recompute layers, with what is kept of them in another memory."""
