"""Dissimilarity guidance: sampling that stays away from known music, for example the training set. Paper: §4.5.

The method is not in the paper. In each step, the predicted music is compared with each known piece. If the cosine
similarity to the nearest one is above a threshold, the prediction is rotated away from it, with the same norm. The
published methods (below) take a gradient step with a fixed weight on the similarity of embeddings or images. Here
latents are compared, so the step needs no gradient and has exactly the necessary length.

Only the same music at the same position in the window is recognised, which is what overfitting produces. For anything
else, compare the result: `stable-longform analyze memorization`.

References: Chen, Liu and Xu, "Towards memorization-free diffusion models" (CVPR 2024), dissimilarity guidance; Kim et
al., arXiv 2509.14934, the same for audio.
"""

from dataclasses import dataclass
from typing import Any

import torch

from stable_longform.noise_schedule import amplitudes, latents_from_velocity


@dataclass(frozen=True)
class DissimilarityGuidance:
    """The music to stay away from, and how far.

    Args:
        known_latents: `(num_pieces, latent_channels, latent_length)`, in the scale of the transformer's output. If a
            window and a piece differ in length, the frames that both have are compared.
        threshold: the cosine similarity, in [-1, 1], above which a prediction is rotated away. It is about 0 for
            unrelated pieces, because the mean of each channel over all known latents is subtracted.
        scale: share of the excess over the threshold that is removed, in [0, 1].

    Raises:
        ValueError: a value is outside its range, or the latents have another shape or are not finite.
    """

    known_latents: torch.Tensor
    threshold: float = 0.5
    scale: float = 1.0

    def __post_init__(self):
        if self.known_latents.ndim != 3 or not len(self.known_latents) or not self.known_latents.isfinite().all():
            raise ValueError(
                "known_latents must be (num_pieces, latent_channels, latent_length) and finite, got shape "
                f"{tuple(self.known_latents.shape)}."
            )
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [-1, 1], got {self.threshold}.")
        if not 0 <= self.scale <= 1:
            raise ValueError(f"scale must be in [0, 1], got {self.scale}.")

    def check_channels(self, num_channels: int) -> None:
        """Raises a ValueError unless the known latents have this number of channels."""
        if self.known_latents.shape[1] != num_channels:
            raise ValueError(f"known_latents must have {num_channels} channels, got {self.known_latents.shape[1]}.")

    def nearest(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For each item `(B, latent_channels, L)` the cosine `(B,)` to its nearest known piece, and that number."""
        items, known, _ = self._centered(latents)
        return (_unit(items) @ _unit(known).T).max(dim=1)

    def turn_away(self, latents: torch.Tensor) -> torch.Tensor:
        """Rotates predicted latents `(B, latent_channels, L)` to the allowed cosine; others are unchanged."""
        items, known, mean = self._centered(latents)
        units, known = _unit(items), _unit(known)
        cosines, numbers = (units @ known.T).max(dim=1)
        allowed = cosines - self.scale * (cosines - self.threshold).clamp(min=0)
        nearest = known[numbers]
        across = _unit(units - cosines[:, None] * nearest)
        turned = allowed[:, None] * nearest + (1 - allowed.square()).clamp(min=0).sqrt()[:, None] * across
        turned = turned * items.norm(dim=1, keepdim=True)
        result = latents.clone()
        length = min(latents.shape[-1], self.known_latents.shape[-1])
        changed = (turned.unflatten(1, (latents.shape[1], length)) + mean).to(latents)
        is_near = (cosines > self.threshold)[:, None, None]
        result[..., :length] = torch.where(is_near, changed, latents[..., :length])
        return result

    def _centered(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Flattened items and known pieces, minus the known mean `(latent_channels, 1)`, and that mean."""
        if latents.shape[1] != self.known_latents.shape[1]:
            raise ValueError(
                f"known_latents must have {latents.shape[1]} channels, not {self.known_latents.shape[1]}."
            )
        known, length = self.known_latents.to(latents), min(latents.shape[-1], self.known_latents.shape[-1])
        mean = known.mean(dim=(0, 2))[:, None]
        return (latents[..., :length] - mean).flatten(1), (known[..., :length] - mean).flatten(1), mean


class DissimilarVelocity:
    """A velocity whose predicted music stays away from known music; see `sampling.sample`.

    Args:
        velocity: the velocity to change.
        dissimilarity: the known music, and how far to stay away from it.
        prediction_type: of the velocity, one of `noise_schedule.PREDICTION_TYPES`.
    """

    def __init__(self, velocity: Any, dissimilarity: DissimilarityGuidance, prediction_type: str):
        self.velocity, self.dissimilarity, self.prediction_type = velocity, dissimilarity, prediction_type

    @property
    def conditioning(self):
        """The conditioning of the velocity, for callbacks."""
        return self.velocity.conditioning

    def change(self, **tensors: torch.Tensor) -> None:
        """Replaces tensors of the conditioning."""
        self.velocity.change(**tensors)

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, time: float) -> torch.Tensor:
        """The velocity `(B, C, L)`; arguments as in `GuidedVelocity`."""
        v = self.velocity(latents, t, time)
        predicted = latents_from_velocity(latents, v, t.to(latents), self.prediction_type)
        away = predicted - self.dissimilarity.turn_away(predicted)
        noise_amplitude = amplitudes(t.to(latents), self.prediction_type)[1]
        return v + away / noise_amplitude  # z = α·x − σ·v, and x − σ·v of rectified flow


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Divides rows by their norms; zero rows stay zero."""
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
