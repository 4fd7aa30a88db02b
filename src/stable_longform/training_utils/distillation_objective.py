"""Distillation to few steps: from any point of a teacher's trajectory, the student reaches a later one or its end.

References: Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", arXiv 2202.00512 (to a
later point). Luhman and Luhman, "Knowledge distillation in iterative generative models", arXiv 2101.02388 (from the
noise to the end). Song et al., "Consistency models", arXiv 2303.01469 (from any point to the end).
"""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from stable_longform import noise_schedule
from stable_longform.training_utils.trajectories import collate_points
from stable_longform.training_utils.v_objective import VelocityLoss


class DistillationLoss(VelocityLoss):
    """Squared error of the data predicted by the student's velocity, averaged over each item. Not in the paper.

    The student uses no guidance: the trajectories already contain the effect of the teacher's.
    """

    def forward(self, batch: dict) -> torch.Tensor:
        """Computes the loss `(B,)` of each item, on the device of its `prompt_embeds`.

        Args:
            batch: `noisy_latents (B, C, L)` and `target (B, C, L)`, both in float32, `timestep (B,)`; conditions as in
                `VelocityLoss.forward`, where `is_dropped` is True for items without a prompt.
        """
        device = batch["prompt_embeds"].device
        noisy_latents, target, t = (batch[name].to(device) for name in ("noisy_latents", "target", "timestep"))
        velocity = self.predict(noisy_latents, t, batch).float()
        prediction = noise_schedule.latents_from_velocity(noisy_latents, velocity, t)
        return (prediction - target).square().mean(dim=(1, 2))


@torch.no_grad()
def validate_distillation(
    loss: Callable[[dict], torch.Tensor],
    points: Sequence[Sequence[dict]],
    add_conditions: Callable[[dict], dict],
    accelerator: Accelerator,
) -> dict[str, float]:
    """The loss at fixed points of held-out trajectories.

    Args:
        loss: `DistillationLoss`, prepared or not, with the weights to evaluate.
        points: the same number for each trajectory, the noise first. They are shared out to the processes, each of
            which must call this.
        add_conditions: adds the conditions to a batch of points.
        accelerator: of the run.

    Returns:
        Means: `valid/loss` over all points, and `valid/loss_t1` over the noise, the start of one-step generation.
    """
    losses = torch.zeros(len(points), len(points[0]), device=accelerator.device)
    for number in range(accelerator.process_index, len(points), accelerator.num_processes):
        for index, point in enumerate(points[number]):
            with accelerator.autocast():
                losses[number, index] = loss(add_conditions(collate_points([point]))).float()[0]
    losses = accelerator.reduce(losses, reduction="sum").cpu()
    return {"valid/loss": float(losses.mean()), "valid/loss_t1": float(losses[:, 0].mean())}
