"""The diffusion process in continuous time. The samplers are in `schedulers/`.

Paper: §2.2 and §3: v-objective on the cosine schedule. Time t runs from 0 (data) to 1 (noise):
α(t) = cos(πt/2), σ(t) = sin(πt/2), x_t = α·z + σ·ε, and the network predicts v = α·ε − σ·z.

Not in the paper: rectified flow, as in Stable Audio Open Small. There α(t) = 1 − t, σ(t) = t, and the network predicts
ε − z. As in diffusers, the two are called the prediction types "v_prediction" and "flow_prediction".

A sampler's noise level is the ratio σ/α = tan(πt/2), so t = (2/π)·atan(σ/α). The network always gets this t in
float32, whatever a scheduler calls its own timesteps: integers are off by up to 1e-3, bfloat16 by more.

References: Salimans and Ho, "Progressive distillation" (2022) for v; Liu et al., "Flow straight and fast" (2022).
"""

import math

import torch

V_PREDICTION, FLOW_PREDICTION = PREDICTION_TYPES = ("v_prediction", "flow_prediction")


def alpha(t: torch.Tensor) -> torch.Tensor:
    """Amplitude of the data at time t in [0, 1]: cos(πt/2)."""
    return torch.cos(t * math.pi / 2)


def sigma(t: torch.Tensor) -> torch.Tensor:
    """Amplitude of the noise at time t in [0, 1]: sin(πt/2)."""
    return torch.sin(t * math.pi / 2)


def time_from_noise_level(noise_level: torch.Tensor) -> torch.Tensor:
    """Time t in [0, 1] of a noise level σ/α ≥ 0: (2/π)·atan(σ/α)."""
    return torch.atan(noise_level) * (2 / math.pi)


def amplitudes(t: torch.Tensor, prediction_type: str = V_PREDICTION) -> tuple[torch.Tensor, torch.Tensor]:
    """Amplitudes (α, σ) of data and noise at times t in [0, 1], for one of `PREDICTION_TYPES`."""
    return (1 - t, t) if prediction_type == FLOW_PREDICTION else (alpha(t), sigma(t))


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, prediction_type: str = V_PREDICTION
) -> torch.Tensor:
    """x_t = α·z + σ·ε for latents and noise `(B, ...)` and times `(B,)`, or one time `()` for all."""
    a, s = amplitudes(_align(t, latents), prediction_type)
    return a * latents + s * noise


def velocity(
    latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, prediction_type: str = V_PREDICTION
) -> torch.Tensor:
    """The training target: v = α·ε − σ·z, or ε − z for rectified flow; shapes as in `add_noise`."""
    if prediction_type == FLOW_PREDICTION:
        return noise - latents
    t = _align(t, latents)
    return alpha(t) * noise - sigma(t) * latents


def latents_from_velocity(
    noisy_latents: torch.Tensor, velocity: torch.Tensor, t: torch.Tensor, prediction_type: str = V_PREDICTION
) -> torch.Tensor:
    """The data that a velocity predicts: z = α·x_t − σ·v, or x_t − σ·v for rectified flow; shapes as above."""
    a, s = amplitudes(_align(t, noisy_latents), prediction_type)
    return (noisy_latents if prediction_type == FLOW_PREDICTION else a * noisy_latents) - s * velocity


def _align(t: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """`(B,)` to `(B, 1, ...)` with as many dimensions as the batch."""
    return t.reshape(-1, *[1] * (batch.ndim - 1))
