"""The v-objective of the diffusion transformer, with condition dropout for guidance. Paper: §2.2, §3.

References: Salimans and Ho, "Progressive distillation", arXiv 2202.00512 (v). Ho and Salimans, "Classifier-free
diffusion guidance", arXiv 2207.12598 (condition dropout).
"""

import torch

from stable_longform import noise_schedule
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D


class VelocityLoss(torch.nn.Module):
    """Squared error of the predicted velocity, averaged over each item, padding included. Paper: §3.

    Networks and loss form one module, as FSDP requires.

    Args:
        transformer: predicts the velocity.
        timing_conditioner: embeds start and total seconds.
    """

    def __init__(self, transformer: DiTTransformer1D, timing_conditioner: TimingConditioner):
        super().__init__()
        self.transformer, self.timing_conditioner = transformer, timing_conditioner

    def forward(self, batch: dict) -> torch.Tensor:
        """Computes the loss `(B,)` of each item of a batch, on the device of its `prompt_embeds`.

        Args:
            batch: `latents (B, C, L)`, `noise (B, C, L)`, `timestep (B,)` in [0, 1]; `seconds_start (B,)`,
                `seconds_total (B,)`, `prompt_embeds (B, S, D)` and, to hide padding, boolean
                `prompt_attention_mask (B, S)`; boolean `is_dropped (B,)`: where True, all text and timing tokens are
                zero, as in the unconditional branch of guidance (the global timing token stays); optionally
                `frame_weights (B, L)` with mean 1.
        """
        device = batch["prompt_embeds"].device
        latents, noise, t = (batch[name].to(device) for name in ("latents", "noise", "timestep"))
        prediction = self.predict(noise_schedule.add_noise(latents, noise, t), t, batch)
        errors = (prediction.float() - noise_schedule.velocity(latents, noise, t)).square().mean(dim=1)
        if "frame_weights" in batch:
            errors = errors * batch["frame_weights"].to(errors)
        return errors.mean(dim=1)

    def predict(self, noisy_latents: torch.Tensor, t: torch.Tensor, batch: dict) -> torch.Tensor:
        """Predicts the velocity `(B, C, L)` of noisy latents at times `(B,)` for the conditions of a batch."""
        prompt_embeds = batch["prompt_embeds"]
        names = ("seconds_start", "seconds_total", "is_dropped")
        start, total, is_dropped = (batch[name].to(prompt_embeds.device) for name in names)
        timing = self.timing_conditioner(start, total)
        tokens = torch.cat([prompt_embeds, timing.encoder_hidden_states.to(prompt_embeds)], dim=1)
        mask = batch.get("prompt_attention_mask")
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(timing.encoder_hidden_states.shape[:2])], dim=1)
        return self.transformer(
            noisy_latents,
            t,
            encoder_hidden_states=tokens.masked_fill(is_dropped[:, None, None], 0),
            global_hidden_states=timing.global_hidden_states.to(prompt_embeds),
            encoder_attention_mask=mask,
        ).sample


def check_widths(networks: VelocityLoss, text_width: int, latent_channels: int) -> None:
    """Checks that the transformer's widths fit those of the text encoder, the timing conditioner and the latents.

    Raises:
        ValueError: a width is another one; the message names it.
    """
    config = networks.transformer.config
    with torch.no_grad():
        timing = networks.timing_conditioner(torch.zeros(1), torch.zeros(1))
    timing_tokens, global_tokens = (
        (tokens.shape[-1], "as timing.conditioning_dim makes it")
        for tokens in (timing.encoder_hidden_states, timing.global_hidden_states)
    )
    needed = (
        ("cross_attention_input_dim", *timing_tokens),
        ("global_states_input_dim", *global_tokens),
        ("cross_attention_input_dim", text_width, "the width of the text encoder"),
        ("in_channels", latent_channels, "the channels of the latents"),
        ("out_channels", latent_channels, "the channels of the latents"),
    )
    for name, width, reason in needed:
        if config[name] != width:
            raise ValueError(f"model.{name} must be {width}, {reason}, got {config[name]}.")


def balance_silence(latent_mask: torch.Tensor) -> torch.Tensor:
    """Weights `(B, L)` with mean 1 that give frames of music and frames of silence half of the loss each.

    The mask `(B, L)` is True for music. In a window of 4m45s, a piece of 10 s makes up only 3 % of the loss, so that
    the loss hardly depends on where it ends. The weights depend only on the model's inputs (duration and position), so
    they do not change the optimal prediction. Windows that are all music or all silence have weights of 1. Not in the
    paper.
    """
    share = latent_mask.float().mean(dim=1, keepdim=True)
    weights = torch.where(latent_mask, 0.5 / share, 0.5 / (1 - share))
    return torch.where((share == 0) | (share == 1), 1.0, weights)
