"""The accelerator of a training script."""

import os
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType


def make_accelerator(
    mixed_precision: str = "no",
    accumulation: int = 1,
    trackers: Sequence[str] = (),
    output_dir: str | os.PathLike | None = None,
    can_shard: bool = False,
    kwargs_handlers: Sequence = (),
) -> Accelerator:
    """The accelerator of a script: all processes of `accelerate launch` or `torchrun`, on GPUs if there are any.

    Checkpoints hold the weights under the model's own names, so that any number of processes can resume them.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        accumulation: micro-batches in a step.
        trackers: names of accelerate's trackers, such as "tensorboard".
        output_dir: where trackers write.
        can_shard: whether the script trains one model with one optimiser, which FSDP and DeepSpeed ask for.
        kwargs_handlers: see accelerate.

    Raises:
        ValueError: a precision or tracker that accelerate does not know or that is not installed, accumulation below
            1, or sharding in a script that cannot.
    """
    if accumulation < 1:
        raise ValueError(f"gradient_accumulation_steps must be at least 1, got {accumulation}.")
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"mixed_precision must be no, bf16 or fp16, got {mixed_precision!r}.")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulation,
        log_with=list(trackers) or None,
        project_dir=output_dir,
        kwargs_handlers=list(kwargs_handlers),
    )
    missing = sorted(set(trackers) - {str(getattr(name, "value", name)) for name in accelerator.log_with})
    if missing:
        raise ValueError(f"trackers: {', '.join(missing)} is not installed; try `pip install {' '.join(missing)}`.")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED) and not can_shard:
        raise ValueError("This script trains on several GPUs by DDP only: its networks are small. Use ddp.yaml.")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1  # it only reports it
    if accelerator.distributed_type == DistributedType.FSDP:
        accelerator.state.fsdp_plugin.mixed_precision_policy = (
            None  # autocast does it: FSDP would cast inputs, times too
        )

    def save_unwrapped(models: list, weights: list, folder: str) -> None:
        for index in range(len(weights)):  # none with FSDP and DeepSpeed, which save their own way
            weights[index] = accelerator.unwrap_model(models[index]).state_dict()

    def load_unwrapped(models: list, folder: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    accelerator.register_save_state_pre_hook(save_unwrapped)
    accelerator.register_load_state_pre_hook(load_unwrapped)
    return accelerator
