"""Arguments of transformers' Trainer, 4 and 5, that nothing here is like, in one table.

They stand in every dump of a run's arguments. At the value that they have by themselves they ask
for nothing and are let through; any other value is refused, in words.
"""

from collections.abc import Mapping
from types import MappingProxyType

from training.refusal import HUB, SERVICE, Refusal

_ANSWERS = "answers are greedy, and evaluation.sample_max_new_tokens long at most"
_BEST = "the best model is that of the lowest held-out loss: checkpoints.load_best_model_at_end"
_BOTH_SIDES = Refusal("set data.max_length, which counts both sides together")
_COMPILER = Refusal("a model is compiled by inductor, in its default mode", (None, "inductor"))
_CONTINUED = Refusal("a job goes on exactly where its newest checkpoint stands")
_EVALUATED = Refusal(
    "the held-out loss is per token, exact whatever the batches", (None, False, True, [])
)
_HARDWARE = Refusal("jobs run on NVIDIA's GPUs or on CPUs", (None, False, ""))
_PRECISION = Refusal("set model.dtype", (None, False, "auto", "O1"))
_REPLICAS = Refusal("processes share a model by parallelism", (None, False, "", []))
_SIZE = Refusal("set optimization.per_device_train_batch_size")
_TRACKER = Refusal(
    "a tracker is named in `integrations` beside `training`", (None, False, "huggingface")
)
_WRAPPED = Refusal("FSDP wraps each layer of a model", (None, 0))

TRAINER_ARGUMENTS: Mapping[str, Refusal] = MappingProxyType(
    {
        # Batches and loss
        "adafactor": Refusal('set optimization.optim to "adafactor"'),
        "auto_find_batch_size": _SIZE,
        "average_tokens_across_devices": Refusal(
            "the loss is per token of all processes", (None, False, True)
        ),
        "label_names": Refusal("data.train_on says what takes loss", (None, [], ["labels"])),
        "label_smoothing_factor": Refusal("the loss is that of the answer itself", (None, 0)),
        "length_column_name": Refusal("the tokens of a row are counted", (None, "length")),
        "max_source_length": _BOTH_SIDES,
        "max_target_length": _BOTH_SIDES,
        "past_index": Refusal("no state is handed from batch to batch", (None, -1)),
        "per_gpu_eval_batch_size": Refusal("set optimization.per_device_eval_batch_size"),
        "per_gpu_train_batch_size": _SIZE,
        "remove_unused_columns": SERVICE,
        # Precision, memory, speed
        "activation_checkpointing_kwargs": Refusal(
            "layers are recomputed without reentrance", (None, {}, {"use_reentrant": False})
        ),
        "bf16_full_eval": _PRECISION,
        "fp16_backend": _PRECISION,
        "fp16_full_eval": _PRECISION,
        "fp16_opt_level": _PRECISION,
        "half_precision_backend": _PRECISION,
        "jit_mode_eval": SERVICE,
        "liger_kernel_config": Refusal("set model.use_liger_kernel", (None, {})),
        "tf32": SERVICE,
        "torch_compile_backend": _COMPILER,
        "torch_compile_mode": _COMPILER,
        "torch_empty_cache_steps": SERVICE,
        "torchdynamo": _COMPILER,
        "use_cache": Refusal("nothing is cached while a model trains"),
        # Loading of batches
        "dataloader_in_order": SERVICE,
        "dataloader_multiprocessing_context": SERVICE,
        "dataloader_persistent_workers": SERVICE,
        "dataloader_prefetch_factor": SERVICE,
        # Evaluation
        "batch_eval_metrics": _EVALUATED,
        "eval_accumulation_steps": SERVICE,
        "eval_delay": Refusal("evaluation goes by evaluation.eval_steps", (None, 0)),
        "eval_do_concat_batches": _EVALUATED,
        "eval_use_gather_object": _EVALUATED,
        "generation_config": Refusal(_ANSWERS),
        "generation_max_length": Refusal(_ANSWERS),
        "generation_num_beams": Refusal(_ANSWERS, (None, 1)),
        "greater_is_better": Refusal(_BEST),
        "include_for_metrics": _EVALUATED,
        "include_inputs_for_metrics": _EVALUATED,
        "metric_for_best_model": Refusal(_BEST, (None, "loss", "eval_loss")),
        "prediction_loss_only": _EVALUATED,
        "use_legacy_prediction_loop": _EVALUATED,
        # Checkpoints
        "enable_jit_checkpoint": SERVICE,
        "ignore_data_skip": _CONTINUED,
        "restore_callback_states_from_checkpoint": _CONTINUED,
        "save_on_each_node": SERVICE,
        "save_only_model": Refusal("a checkpoint can always be resumed"),
        # Reports
        "debug": Refusal("the worker's log is at GET …/jobs/{id}/logs", (None, False, "", [])),
        "include_num_input_tokens_seen": SERVICE,
        "include_tokens_per_second": SERVICE,
        "log_level_replica": SERVICE,
        "log_on_each_node": SERVICE,
        "logging_nan_inf_filter": Refusal("a loss that is no number ends the job", (None, True)),
        "project": _TRACKER,
        "skip_memory_metrics": SERVICE,
        "trackio_bucket_id": _TRACKER,
        "trackio_space_id": _TRACKER,
        "trackio_static_space_id": _TRACKER,
        # A hub
        "hub_always_push": HUB,
        "hub_revision": HUB,
        "push_to_hub_model_id": HUB,
        "push_to_hub_organization": HUB,
        "push_to_hub_token": Refusal(HUB.words, (None, False, "<PUSH_TO_HUB_TOKEN>")),
        # Processes and devices
        "accelerator_config": Refusal(
            "processes share a model by parallelism",
            (
                None,
                {},
                {
                    "split_batches": False,
                    "dispatch_batches": None,
                    "even_batches": True,
                    "use_seedable_sampler": True,
                    "non_blocking": False,
                    "gradient_accumulation_kwargs": None,
                },
            ),
        ),
        "ddp_backend": SERVICE,
        "ddp_broadcast_buffers": SERVICE,
        "ddp_bucket_cap_mb": SERVICE,
        "ddp_static_graph": SERVICE,
        "ddp_timeout": SERVICE,
        "dispatch_batches": _REPLICAS,
        "fsdp_min_num_params": _WRAPPED,
        "fsdp_transformer_layer_cls_to_wrap": _WRAPPED,
        "full_determinism": Refusal("a run is repeated by its `seed`, beside `training`"),
        "mp_parameters": _HARDWARE,
        "parallelism_config": _REPLICAS,
        "ray_scope": Refusal("a job is one run; post one for each setting", (None, "last")),
        "sharded_ddp": _REPLICAS,
        "split_batches": _REPLICAS,
        "tpu_metrics_debug": _HARDWARE,
        "tpu_num_cores": _HARDWARE,
        "use_ipex": _HARDWARE,
        "use_mps_device": _HARDWARE,
        "xpu_backend": _HARDWARE,
    }
)
