"""Hinge adversarial and feature-matching losses on the outputs of a discriminator.

Paper: §2.1, "adversarial and feature matching losses using five convolutional discriminators". Each function takes one
tensor (or list of feature maps) per STFT scale and sums over the scales, as the code did at the time of the paper. The
loss weights 0.1 and 5.0 are for this sum.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def discriminator_loss(real_scores: Sequence[torch.Tensor], fake_scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hinge loss of the discriminator: mean relu(1 − D(x)) + mean relu(1 + D(x̂)), summed over scales."""
    terms = [
        F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    return torch.stack(terms).sum()


def adversarial_loss(fake_scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hinge loss of the generator: −mean D(x̂), summed over scales."""
    return torch.stack([-fake.mean() for fake in fake_scores]).sum()


def feature_matching_loss(
    real_features: Sequence[Sequence[torch.Tensor]], fake_features: Sequence[Sequence[torch.Tensor]]
) -> torch.Tensor:
    """Mean absolute difference between the feature maps: averaged over the maps of a scale, summed over scales."""
    scales = []
    for real_maps, fake_maps in zip(real_features, fake_features, strict=True):
        maps = [(real - fake).abs().mean() for real, fake in zip(real_maps, fake_maps, strict=True)]
        scales.append(torch.stack(maps).mean())
    return torch.stack(scales).sum()
