"""Dissimilarity guidance: on the model that has learned its training set by heart, and on a real pipeline."""

import pytest
import torch
from tiny_pipeline import LATENT_CHANNELS, generate, tiny_pipeline

from stable_longform.noise_schedule import (
    PREDICTION_TYPES,
    add_noise,
    amplitudes,
    latents_from_velocity,
    velocity,
)
from stable_longform.pipelines.dissimilarity import DissimilarityGuidance, DissimilarVelocity

KNOWN = torch.randn(5, 4, 64, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, -1, 0])[:, None]


def exact_velocity(prediction_type):
    """Of the model that fits its training set perfectly: the mean of the known pieces given the noisy one."""

    def predict(latents, t, time):
        a, s = amplitudes(t, prediction_type)
        distances = (latents[:, None] - a * KNOWN).square().sum(dim=(2, 3))
        clean = torch.einsum("bn,ncl->bcl", (-distances / (2 * s.square())).softmax(dim=1), KNOWN)
        return velocity(clean, (latents - a * clean) / s, t, prediction_type)

    return predict


def sample_by_euler(predict, prediction_type, num_steps=40):
    """Follows the velocity from noise to music: exact for constant predictions."""
    latents = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(1))
    times = torch.linspace(0.98, 0.0, num_steps + 1)
    for t, after in zip(times[:-1], times[1:], strict=True):
        clean = latents_from_velocity(latents, predict(latents, t, float(t)), t, prediction_type)
        a, s = amplitudes(t, prediction_type)
        latents = add_noise(clean, (latents - a * clean) / s, after, prediction_type)
    return latents


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_model_that_knows_its_training_set_by_heart_makes_another_piece(prediction_type):
    predict = exact_velocity(prediction_type)
    copies = sample_by_euler(predict, prediction_type)
    cosines, pieces = DissimilarityGuidance(KNOWN).nearest(copies)
    assert (cosines > 0.999).all()
    for item, piece in enumerate(pieces):
        guidance = DissimilarityGuidance(KNOWN[piece][None], 0.2)
        guided = sample_by_euler(DissimilarVelocity(predict, guidance, prediction_type), prediction_type)
        assert float(guidance.nearest(copies)[0][item]) > 0.999
        assert float(guidance.nearest(guided)[0][item]) < 0.3


def test_turning_keeps_the_norm_and_leaves_the_rest_alone():
    guidance = DissimilarityGuidance(KNOWN, 0.3)
    mean = KNOWN.mean(dim=(0, 2))[:, None]
    other = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(2)) + mean
    near = torch.cat([KNOWN[:1] + 0.1 * other[:1], other])
    turned = guidance.turn_away(near)
    assert torch.equal(turned[1:], near[1:])
    cosines, numbers = guidance.nearest(turned)
    assert float(cosines[0]) == pytest.approx(0.3, abs=1e-5) and numbers[0] == 0
    assert float((turned[0] - mean).norm()) == pytest.approx(float((near[0] - mean).norm()), rel=1e-5)
    half = DissimilarityGuidance(KNOWN, 0.3, 0.5)
    before = float(half.nearest(near)[0][0])
    assert float(half.nearest(half.turn_away(near))[0][0]) == pytest.approx((before + 0.3) / 2, abs=1e-5)
    assert torch.equal(DissimilarityGuidance(KNOWN, 0.3, 0.0).turn_away(near)[1:], near[1:])


def test_frames_beyond_the_shorter_one_are_left_alone():
    guidance = DissimilarityGuidance(KNOWN[:1, :, :40], 0.3)
    near = KNOWN[:1] + 0.1 * torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(4))
    turned = guidance.turn_away(near)
    assert torch.equal(turned[..., 40:], near[..., 40:])
    assert float(guidance.nearest(turned)[0]) == pytest.approx(0.3, abs=1e-5)
    assert DissimilarityGuidance(KNOWN, 0.3).turn_away(KNOWN[..., :20]).shape == (5, 4, 20)


def test_a_pipeline_stays_away_from_what_it_made():
    pipe = tiny_pipeline()
    made = generate(pipe, output_type="latent")
    others = torch.randn(3, *made.shape[1:], generator=torch.Generator().manual_seed(3))
    known = torch.cat([made, others])
    assert torch.equal(generate(pipe, output_type="latent", dissimilarity=DissimilarityGuidance(known, 1.0)), made)
    guidance = DissimilarityGuidance(known, 0.4)
    assert float(guidance.nearest(made)[0]) == pytest.approx(1.0)
    other = generate(pipe, output_type="latent", dissimilarity=guidance)
    assert float(guidance.nearest(other)[0]) < 0.7 and other.isfinite().all()


def test_bad_values_are_named():
    for values, message in (
        ((KNOWN[0],), "num_pieces, latent_channels, latent_length"),
        ((KNOWN[:0],), "num_pieces"),
        ((KNOWN / 0,), "finite"),
        ((KNOWN, 1.5), "threshold must be in"),
        ((KNOWN, 0.5, 2.0), "scale must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            DissimilarityGuidance(*values)
    wrong = DissimilarityGuidance(torch.zeros(1, LATENT_CHANNELS + 1, 8))
    with pytest.raises(ValueError, match=f"must have {LATENT_CHANNELS} channels"):
        generate(tiny_pipeline(), output_type="latent", dissimilarity=wrong)
