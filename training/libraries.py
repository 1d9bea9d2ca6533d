"""Loads the model stack, which takes seconds, before anything of a run needs to be known.

What is loaded looks for no GPU: which ones a run may use is known only when it begins.
"""

import ctypes
import gc
import importlib

from training.packages import left_out

_ON_THE_WAY = (
    # Libraries import these when a run first needs them.
    "torch.utils.tensorboard",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
)


_DRIVER = "libcuda.so.1"
_NOT_INITIALIZED = 3  # the driver's CUDA_ERROR_NOT_INITIALIZED


def load_libraries() -> None:
    """What every run imports first."""
    gc.disable()  # nothing of what is imported is garbage, and looking for it takes an eighth
    try:
        with left_out("bitsandbytes"):  # it looks for a GPU; PEFT's helpers import what they find
            importlib.import_module("peft")
        importlib.import_module("training.run")
    finally:
        gc.freeze()  # nor is it ever looked at again
        gc.enable()


def load_ahead() -> None:
    """All that can be done before a run is known, for a process that has time.

    Raises:
        RuntimeError: Something has begun to use the GPUs, and with that chosen among them.
    """
    # transformers asks the GPUs, while it is imported, whether these could be used.
    with left_out("flash_attn"), left_out("flash_attn_interface"):
        load_libraries()
        for name in _ON_THE_WAY:
            importlib.import_module(name)
    _forget_answers()
    conversions = importlib.import_module("transformers.conversion_mapping")
    conversions.get_checkpoint_conversion_mapping("llama")  # compiles a thousand expressions, once
    gc.freeze()
    if not _gpus_are_untouched():
        raise RuntimeError("a library has initialised CUDA while it was imported")


def _forget_answers() -> None:
    """Have transformers look for flash attention anew, once the GPUs are known."""
    looking = importlib.import_module("transformers.utils.import_utils")
    for version in (2, 3, 4):
        getattr(looking, f"is_flash_attn_{version}_available").cache_clear()


def _gpus_are_untouched() -> bool:
    """Whether CUDA_VISIBLE_DEVICES may still be chosen: the driver reads it once."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return True
    count = ctypes.c_int()
    return bool(driver.cuDeviceGetCount(ctypes.byref(count)) == _NOT_INITIALIZED)
