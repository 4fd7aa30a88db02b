import math

import pytest
import torch
from common import assert_all_equal, randomize_weights, relative_error

from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator, STFTDiscriminator, WeightNormConv2d

# frames and bins of 65536 samples, bins after the three layers of stride 2
SCALES = {
    2048: (125, 1025, 129),
    1024: (253, 513, 65),
    512: (509, 257, 33),
    256: (1021, 129, 17),
    128: (2045, 65, 9),
}


def flatten(outputs):
    """Scores and feature maps of all scales in one list."""
    scores, features = outputs
    return scores + [feature for scale in features for feature in scale]


@pytest.mark.parametrize("filters, expected", [(64, 1_883_850), (32, 481_130)])
def test_paper_size(filters, expected):
    with torch.device("meta"):
        model = MultiScaleSTFTDiscriminator(filters=filters)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_weights_have_the_names_of_encodec(tiny_discriminator_config):
    model = MultiScaleSTFTDiscriminator(**tiny_discriminator_config)
    layers = [f"convs.{i}" for i in range(5)] + ["conv_post"]
    expected = {
        f"discriminators.{scale}.{layer}.conv.{name}"
        for scale in range(2)
        for layer in layers
        for name in ("weight_g", "weight_v", "bias")
    }
    assert set(model.state_dict()) == expected


@torch.no_grad()
@pytest.mark.parametrize("fft_size", SCALES)
def test_shapes_at_the_paper_scales(fft_size):
    num_frames, num_bins, last_num_bins = SCALES[fft_size]
    model = STFTDiscriminator(fft_size, fft_size // 4, audio_channels=2, filters=1, stride=2)
    waveform = torch.randn(1, 2, 65536)
    assert model.spectrogram(waveform).shape == (1, 4, num_frames, num_bins)
    scores, features = model(waveform)
    assert scores.shape == (1, 1, num_frames, last_num_bins)
    bins = [num_bins]
    for _ in range(3):
        bins.append(math.ceil(bins[-1] / 2))
    assert [feature.shape for feature in features] == [(1, 1, num_frames, n) for n in [*bins, last_num_bins]]


@torch.no_grad()
def test_stride_one_keeps_all_bins():
    model = MultiScaleSTFTDiscriminator(filters=2, fft_sizes=[64], stride=1)
    scores, features = model(torch.randn(3, 2, 256))
    assert [tensor.shape[2:] for tensor in flatten((scores, features))] == [(13, 33)] * 6
    assert scores[0].shape[:2] == (3, 1) and features[0][0].shape[:2] == (3, 2)


def test_spectrogram_of_a_sinusoid():
    """A cosine on bin k has |STFT| = a · Σw / 2 there, divided by √(Σw²) = √(3n/8);
    right leads left by 90° and is half as loud.
    """
    fft_size, k, amplitude = 256, 32, 0.5
    phase = 2 * math.pi * k / fft_size * torch.arange(1024, dtype=torch.float64)
    waveform = amplitude * torch.stack([phase.cos(), -0.5 * phase.sin()])[None].float()
    model = STFTDiscriminator(fft_size, fft_size // 4, audio_channels=2, filters=1, stride=2)
    left_real, right_real, left_imag, right_imag = model.spectrogram(waveform)[0]
    expected = amplitude * (fft_size / 2) / 2 / math.sqrt(3 * fft_size / 8)
    # hop 64 is a whole number of periods of 8 samples: the phase at the start of every frame is the same
    torch.testing.assert_close(left_real[:, k], torch.full((13,), expected))
    torch.testing.assert_close(right_imag[:, k], torch.full((13,), expected / 2))
    for silent in (left_imag[:, k], right_real[:, k], left_real[:, k + 3], right_imag[:, k - 3]):
        assert silent.abs().max() < 1e-4


@torch.no_grad()
def test_items_and_scales_are_independent(tiny_discriminator_config):
    model = randomize_weights(MultiScaleSTFTDiscriminator(**tiny_discriminator_config))
    waveform = torch.randn(3, 2, 512)
    together = flatten(model(waveform))
    alone = flatten(model(waveform[1:2]))
    assert max(relative_error(a, t[1:2]) for a, t in zip(alone, together, strict=True)) < 1e-5
    for number, size in enumerate(tiny_discriminator_config["fft_sizes"]):
        scale = model.discriminators[number]
        assert scale.hop_length == size // 4
        assert_all_equal([scale(waveform)[0]], [model(waveform)[0][number]])


def test_gradients_reach_the_waveform_and_every_weight(tiny_discriminator_config):
    model = randomize_weights(MultiScaleSTFTDiscriminator(**tiny_discriminator_config), std=0.1)
    waveform = torch.randn(1, 2, 512, requires_grad=True)
    sum(output.square().mean() for output in flatten(model(waveform))).backward()
    for tensor in (waveform, *model.parameters()):
        assert torch.isfinite(tensor.grad).all() and tensor.grad.abs().max() > 0


@torch.no_grad()
def test_weight_norm():
    torch.manual_seed(0)
    conv = WeightNormConv2d(2, 3, (3, 5))
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(2, 3, (3, 5))
    hidden_states = torch.randn(1, 2, 8, 9)
    output = conv(hidden_states)
    torch.testing.assert_close(output, plain(hidden_states))
    assert conv.weight_g.shape == (3, 1, 1, 1)
    conv.weight_v.mul_(torch.tensor([0.5, 2.0, 7.0]).reshape(3, 1, 1, 1))
    torch.testing.assert_close(conv(hidden_states), output)


@torch.no_grad()
def test_save_load(tiny_discriminator_config, tmp_path):
    model = randomize_weights(MultiScaleSTFTDiscriminator(**tiny_discriminator_config))
    model.save_pretrained(tmp_path)
    loaded = MultiScaleSTFTDiscriminator.from_pretrained(tmp_path)
    waveform = torch.randn(2, 2, 300)
    assert_all_equal(flatten(loaded(waveform)), flatten(model(waveform)))


@pytest.mark.parametrize("shape", [(1, 1, 512), (2, 512), (1, 2, 255)])
def test_wrong_waveforms(tiny_discriminator_config, shape):
    model = MultiScaleSTFTDiscriminator(**tiny_discriminator_config)
    with pytest.raises(ValueError, match="num_samples >= 256"):
        model(torch.zeros(shape))
