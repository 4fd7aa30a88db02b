"""The velocity loss on held-out windows: over all times, at pure noise, and with another window's prompt."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from stable_longform.data.latents import collate_windows
from stable_longform.training_utils.items import VALIDATION_SEED, item_generator


@torch.no_grad()
def validate(
    velocity_loss: Callable[[dict], torch.Tensor],
    windows: Sequence[dict],
    embed_prompts: Callable[[list[str]], dict],
    num_windows: int,
    num_buckets: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Computes the loss of fixed windows with fixed noise and equally spaced times.

    `valid/loss` is low as soon as the latents are well predicted from their noisy selves, whether or not the prompt
    is listened to. At t = 1 there is nothing to predict them from but the condition; and a model that listens has a
    higher loss with the prompt of another window.

    Args:
        velocity_loss: `VelocityLoss`, prepared or not, of the weights to judge.
        windows: of the valid split, shared out to the processes, each of which must call this.
        embed_prompts: gives the `prompt_embeds`, and perhaps the `prompt_attention_mask`, of prompts.
        num_windows: at least 1.
        num_buckets: ranges of t whose losses are given apart; at most one for each window; 1: none.
        accelerator: of the run.

    Returns:
        Means over the windows: `valid/loss`, `valid/loss_t0.25-0.50` and the like for each bucket, `valid/loss_t1` at
        t = 1, and `valid/loss_other_prompt` and `valid/loss_t1_other_prompt` with the prompts of the next windows (of
        a single window its own).
    """
    losses = torch.zeros(num_windows, 4, device=accelerator.device)
    for first in range(0, num_windows, accelerator.num_processes):
        i = min(first + accelerator.process_index, num_windows - 1)  # with FSDP all must compute equally often
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
