"""The velocity loss on held-out windows: over all times, at pure noise, and with another window's prompt."""

from collections.abc import Callable

import torch
from accelerate import Accelerator

from stable_longform.data.latents import collate_windows
from stable_longform.data.numbered_items import Items
from stable_longform.training_utils.items import VALIDATION_SEED, item_generator


@torch.no_grad()
def validate(
    velocity_loss: Callable[[dict], torch.Tensor],
    windows: Items,
    embed_prompts: Callable[[list[str]], dict],
    num_windows: int,
    num_buckets: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Computes the loss of fixed windows with fixed noise and equally spaced times.

    `valid/loss` is low if the latents are predicted well from noisy latents, even if the model ignores the prompt. At
    t = 1, the condition is the only information. A model that uses the prompt has a higher loss with the prompt of
    another window.

    Args:
        velocity_loss: `VelocityLoss`, prepared or not, with the weights to evaluate.
        windows: of the valid split, shared out to the processes, each of which must call this.
        embed_prompts: returns the `prompt_embeds` of prompts, and optionally the `prompt_attention_mask`.
        num_windows: at least 1.
        num_buckets: number of ranges of t with separate losses, at most one for each window; 1: no separate losses.
        accelerator: of the run.

    Returns:
        Means over the windows: `valid/loss`; `valid/loss_t0.25-0.50` etc. for each bucket; `valid/loss_t1` at t = 1;
        `valid/loss_other_prompt` and `valid/loss_t1_other_prompt` with the prompt of the next window (a single window
        keeps its own).
    """
    losses = torch.zeros(num_windows, 4, device=accelerator.device)
    for first in range(0, num_windows, accelerator.num_processes):
        i = min(first + accelerator.process_index, num_windows - 1)  # FSDP: all must compute equally often
        window, other = windows[i], windows[(i + 1) % num_windows]
        batch = collate_windows([window] * 4)
        noise = torch.randn(window["latents"].shape, generator=item_generator(VALIDATION_SEED, i))
        batch["noise"] = noise.expand_as(batch["latents"])
        batch["timestep"] = torch.tensor([(i + 0.5) / num_windows] * 2 + [1.0] * 2)
        batch["is_dropped"] = torch.zeros(4, dtype=torch.bool)
        with accelerator.autocast():
            batch |= embed_prompts([window["prompt"], other["prompt"]] * 2)
            loss = velocity_loss(batch)
        if i == first + accelerator.process_index:
            losses[i] = loss.float()
    losses = accelerator.reduce(losses, reduction="sum").cpu()
    names = ("loss", "loss_other_prompt", "loss_t1", "loss_t1_other_prompt")
    metrics = {f"valid/{name}": float(mean) for name, mean in zip(names, losses.mean(dim=0), strict=True)}
    num_buckets = min(num_buckets, num_windows)
    for bucket, part in enumerate(losses[:, 0].tensor_split(num_buckets) if num_buckets > 1 else ()):
        low, high = bucket / num_buckets, (bucket + 1) / num_buckets
        metrics[f"valid/loss_t{low:.2f}-{high:.2f}"] = float(part.mean())
    return metrics
