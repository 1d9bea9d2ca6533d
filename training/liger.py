"""Liger's fused kernels for norms, rotations and gates, put into a loaded model. Never run here.

The loss stays ours: Liger's own would take the place of the exact sum over a window.
"""

import importlib

from transformers import PreTrainedModel

from training.failures import RunError, invalid_spec

_OURS = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def apply_liger(model: PreTrainedModel) -> None:
    """Replace what Liger has kernels for.

    Raises:
        RunError: It is not installed, or has none for this architecture.
    """
    try:
        patches = importlib.import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as error:
        raise RunError(
            "missing_package",
            "liger-kernel is not installed on this worker.",
            fault="infrastructure",
            param="training.model.use_liger_kernel",
            remedy="Install it there (pip install liger-kernel), or set use_liger_kernel to false.",
        ) from error
    if model.config.model_type not in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise refused(f"Liger has no kernels for {model.config.model_type}.")
    patches._apply_liger_kernel_to_instance(model=model, **_OURS)


def refused(reason: str) -> RunError:
    return invalid_spec(
        reason,
        param="training.model.use_liger_kernel",
        remedy="Set training.model.use_liger_kernel to false.",
    )
