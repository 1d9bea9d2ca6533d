"""`python -m training` where FSDP runs on CPUs: for tests, and nowhere else.

accelerate takes processes without a GPU for single ones, and transformers then makes DDP of FSDP
without a word, which the product refuses. Here accelerate is told that they belong together.
"""

import os
import sys
from functools import partial

import accelerate
import transformers.training_args
from accelerate.utils import DistributedType

import training.__main__ as edge
import training.run
from training.distributed import was_launched
from training.launch import launch


def shim() -> None:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    accelerate.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    training.run.check_strategy = lambda *_, **__: None
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True


if __name__ == "__main__":
    if was_launched():
        shim()
    else:
        program = ("-P", "-m", "tests.training.fsdp_on_cpu", "run")
        edge.launch = partial(launch, program=program)
    sys.exit(edge.main(sys.argv[1:]))
