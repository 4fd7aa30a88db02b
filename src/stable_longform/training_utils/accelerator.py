"""The accelerator of a training script."""

import datetime
import os
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs

from stable_longform.training_utils.gpu_settings import set_kernels
from stable_longform.training_utils.run_options import TrainingOptions


def make_accelerator(options: TrainingOptions, can_shard: bool = False, kwargs_handlers: Sequence = ()) -> Accelerator:
    """Makes the accelerator of a script, for all processes of `accelerate launch` or `torchrun`, on GPUs if present.

    Checkpoints hold the weights under the model's own names, so that any number of processes can resume them.

    Args:
        options: of the script.
        can_shard: whether the script trains one model with one optimiser, as FSDP requires.
        kwargs_handlers: see accelerate.

    Raises:
        ValueError: accelerate does not know a tracker, or it is not installed; FSDP is requested in a script that does
            not support it; or FSDP1 or DeepSpeed are requested.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(
            "DeepSpeed is not supported: it applies a step before its gradient can be checked, and takes clipping and "
            "accumulation from its own file. Use fsdp2.yaml, which shards the same."
        )
    set_kernels(options)
    timeout = InitProcessGroupKwargs(timeout=datetime.timedelta(minutes=options.timeout_in_minutes))
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=list(options.trackers) or None,
        project_dir=options.output_dir,
        kwargs_handlers=[timeout, *kwargs_handlers],
    )
    missing = sorted(set(options.trackers) - {str(getattr(name, "value", name)) for name in accelerator.log_with})
    if missing:
        raise ValueError(f"trackers: {', '.join(missing)} is not installed; try `pip install {' '.join(missing)}`.")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        _prepare_fsdp(accelerator, can_shard)

    def save_unwrapped(models: list, weights: list, folder: str) -> None:
        for index in range(len(weights)):  # none with FSDP, which saves its own way
            weights[index] = accelerator.unwrap_model(models[index]).state_dict()

    def load_unwrapped(models: list, folder: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    accelerator.register_save_state_pre_hook(save_unwrapped)
    accelerator.register_load_state_pre_hook(load_unwrapped)
    return accelerator


def _prepare_fsdp(accelerator: Accelerator, can_shard: bool) -> None:
    """Checks that sharding is possible, and enables it on CPUs too, where accelerate does not."""
    if not can_shard:
        raise ValueError("This script trains on several GPUs by DDP only: its networks are small. Use ddp.yaml.")
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin()
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(f"FSDP needs several processes, got {accelerator.num_processes}: use `accelerate launch`.")
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(f"FSDP must be of version 2, got {plugin.fsdp_version}: use fsdp2.yaml.")
    plugin.mixed_precision_policy = None  # autocast is used instead: FSDP would cast all inputs, including times
