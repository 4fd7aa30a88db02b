"""The diffusion process in continuous time. `schedulers/` has what samples it.

Paper: §2.2 and §3: v-objective on the cosine schedule. Time t runs from 0 (data) to 1 (noise):
α(t) = cos(πt/2), σ(t) = sin(πt/2), x_t = α·z + σ·ε, and the network predicts v = α·ε − σ·z.

A sampler's noise level is the ratio σ/α = tan(πt/2), so t = (2/π)·atan(σ/α). The network is always given this t in
float32, whatever a scheduler calls its own timesteps: integers lose up to 1e-3, bfloat16 more.

Reference: Salimans and Ho, "Progressive distillation" (2022) for v.
"""

import math

import torch


def alpha(t: torch.Tensor) -> torch.Tensor:
    """Amplitude of the data at time t in [0, 1]: cos(πt/2)."""
    return torch.cos(t * math.pi / 2)


def sigma(t: torch.Tensor) -> torch.Tensor:
    """Amplitude of the noise at time t in [0, 1]: sin(πt/2)."""
    return torch.sin(t * math.pi / 2)


def time_from_noise_level(noise_level: torch.Tensor) -> torch.Tensor:
    """Time t in [0, 1] of a noise level σ/α ≥ 0: (2/π)·atan(σ/α)."""
    return torch.atan(noise_level) * (2 / math.pi)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = α·z + σ·ε for latents and noise `(B, ...)` and times `(B,)`."""
    t = _align(t, latents)
    return alpha(t) * latents + sigma(t) * noise


def velocity(latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The training target v = α·ε − σ·z; shapes as in `add_noise`."""
    t = _align(t, latents)
    return alpha(t) * noise - sigma(t) * latents


def latents_from_velocity(noisy_latents: torch.Tensor, velocity: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The data z = α·x_t − σ·v that a velocity stands for; shapes as in `add_noise`."""
    t = _align(t, noisy_latents)
    return alpha(t) * noisy_latents - sigma(t) * velocity


def noise_from_velocity(noisy_latents: torch.Tensor, velocity: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise ε = σ·x_t + α·v that a velocity stands for; shapes as in `add_noise`."""
    t = _align(t, noisy_latents)
    return sigma(t) * noisy_latents + alpha(t) * velocity


def _align(t: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """`(B,)` to `(B, 1, ...)` with as many dimensions as the batch."""
    return t.reshape(-1, *[1] * (batch.ndim - 1))
