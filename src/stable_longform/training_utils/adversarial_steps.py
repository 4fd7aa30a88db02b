"""Alternating training of the autoencoder and its discriminator: whose turn it is, and the losses. Paper: §2.1, §3."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from stable_longform.losses.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss


class Turn(NamedTuple):
    """Which network is trained in a step: whether the discriminator takes part, and whether it is its turn."""

    is_adversarial: bool
    is_discriminators: bool
    own_step: int  # how many steps the trained network has taken before


def choose_turn(step: int, discriminator_start_step: int) -> Turn:
    """Decides which network is trained in a step.

    Before `discriminator_start_step`, only the autoencoder is trained. From then on, the networks take turns: the
    autoencoder is trained in even steps. Each has its own learning-rate schedule.
    """
    if step < discriminator_start_step:
        return Turn(False, False, step)
    turns_taken = (step + 1) // 2 - (discriminator_start_step + 1) // 2  # even steps so far, the autoencoder's
    if step % 2:
        return Turn(True, True, step // 2 - discriminator_start_step // 2)
    return Turn(True, False, discriminator_start_step + turns_taken)


def generator_step_losses(
    model,
    discriminator,
    waveform: torch.Tensor,
    spectral_losses: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]],
    generator: Sequence[torch.Generator] | torch.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """Named losses of the autoencoder on `(B, 2, N)`; the adversarial ones only with a discriminator.

    Networks may run in mixed precision; spectra, scores and feature distances are always in float32.

    Args:
        model: autoencoder, prepared or not.
        discriminator: not wrapped; it gets no gradient. None: only the autoencoder is trained.
        waveform: `(B, 2, N)`.
        spectral_losses: returns named losses of a waveform and its reconstruction.
        generator: for sampling from the posterior, or a list with one for each item.
    """
    output = model(waveform, sample_posterior=True, generator=generator)
    decoded = output.sample.float()
    with torch.autocast(waveform.device.type, enabled=False):
        losses = spectral_losses(waveform, decoded)
        losses |= {"kl": output.posterior.kl(), "l1": (waveform - decoded).abs().mean()}
    if discriminator is not None:
        discriminator.requires_grad_(False)
        fake_scores, fake_features = discriminator(decoded)
        with torch.no_grad():
            _, real_features = discriminator(waveform)
        discriminator.requires_grad_(True)
        with torch.autocast(waveform.device.type, enabled=False):
            losses["adversarial"] = adversarial_loss([scores.float() for scores in fake_scores])
            losses["feature_matching"] = feature_matching_loss(_in_float32(real_features), _in_float32(fake_features))
    return losses


def discriminator_step_losses(
    model,
    discriminator,
    waveform: torch.Tensor,
    generator: Sequence[torch.Generator] | torch.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """The hinge loss of the discriminator on real audio and its reconstruction, in float32.

    Args:
        model: autoencoder, prepared or not. It gets no gradient.
        discriminator: prepared or not.
        waveform: `(B, 2, N)`.
        generator: for sampling from the posterior, or a list with one for each item.
    """
    with torch.no_grad():
        decoded = model(waveform, sample_posterior=True, generator=generator).sample.float()
    scores, _ = discriminator(torch.cat([waveform, decoded]))
    real_scores, fake_scores = zip(*(score.float().chunk(2) for score in scores), strict=True)
    with torch.autocast(waveform.device.type, enabled=False):
        return {"discriminator": discriminator_loss(real_scores, fake_scores)}


def _in_float32(features: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """The feature maps of all scales in float32."""
    return [[feature_map.float() for feature_map in scale] for scale in features]
