import math

import pytest
import torch

from stable_longform.losses.stft import (
    FFT_SIZES,
    SIGNAL_WEIGHTS,
    a_weighting,
    magnitude_distance,
    stereo_stft_loss,
    stft_magnitude,
)


@pytest.fixture
def pair(make_audio):
    """Two stereo items and an imperfect reconstruction, `(2, 2, 6000)` each."""
    waveform = torch.stack([make_audio(6000, seed=1), make_audio(6000, seed=2)])
    return waveform, 0.8 * waveform + 0.05 * torch.randn(waveform.shape, generator=torch.Generator().manual_seed(0))


def auraloss_settings(fft_sizes=FFT_SIZES):
    return {
        "fft_sizes": list(fft_sizes),
        "hop_sizes": [size // 4 for size in fft_sizes],
        "win_lengths": list(fft_sizes),
    }


# Parity


@pytest.mark.parametrize("sampling_rate", [44100, 32000])
def test_parity_with_auraloss(pair, sampling_rate):
    """auraloss is called as in the code of the paper: (real, decoded), so that the decoded signal normalises."""
    freq = pytest.importorskip("auraloss").freq
    settings = auraloss_settings() | {"perceptual_weighting": True, "sample_rate": sampling_rate}
    losses = stereo_stft_loss(*pair, sampling_rate)
    waveform, decoded = pair
    stereo = freq.MultiResolutionSTFTLoss(**settings)
    for channel, name in enumerate(["left", "right"]):
        expected = stereo(waveform[:, channel : channel + 1], decoded[:, channel : channel + 1])
        torch.testing.assert_close(losses[name], expected, rtol=1e-4, atol=0)
    expected = freq.SumAndDifferenceSTFTLoss(**settings)(waveform, decoded)
    torch.testing.assert_close((losses["mid"] + losses["side"]) / 2, expected, rtol=1e-4, atol=0)


def test_parity_with_auraloss_without_weighting_and_in_its_gradient(pair):
    freq = pytest.importorskip("auraloss").freq
    waveform, decoded = pair[0][:, :1], pair[1][:, :1].clone().requires_grad_()
    expected = freq.MultiResolutionSTFTLoss(**auraloss_settings((512, 128)))(waveform, decoded)
    pairs = [[stft_magnitude(audio[:, 0], size)[None] for audio in (waveform, decoded)] for size in (512, 128)]
    loss = sum(magnitude_distance(*pair) for pair in pairs)[0] / 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    gradients = [torch.autograd.grad(value, decoded)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * float(gradients[1].abs().max()))


# Laws


def test_identical_signals(pair):
    losses = stereo_stft_loss(pair[0], pair[0])
    assert set(losses) == set(SIGNAL_WEIGHTS) == {"mid", "side", "left", "right"}
    assert all(float(loss) == 0 for loss in losses.values())


def test_different_signals_and_their_order(pair):
    forward, backward = stereo_stft_loss(*pair), stereo_stft_loss(*reversed(pair))
    for name in SIGNAL_WEIGHTS:
        assert float(forward[name]) > 0.1
        assert abs(float(forward[name] - backward[name])) > 1e-3  # the decoded signal normalises


def test_swapping_left_and_right(pair):
    losses = stereo_stft_loss(*pair)
    swapped = stereo_stft_loss(*(audio.flip(1) for audio in pair))
    for name, source in {"mid": "mid", "side": "side", "left": "right", "right": "left"}.items():
        torch.testing.assert_close(swapped[name], losses[source], rtol=1e-6, atol=0)
    assert abs(float(losses["left"] - losses["right"])) > 1e-3


def test_an_error_in_the_side_leaves_the_mid(pair):
    waveform, _ = pair
    error = 0.05 * torch.randn(2, 1, 6000)
    losses = stereo_stft_loss(waveform, waveform + torch.cat([error, -error], dim=1))
    assert float(losses["mid"]) < 1e-3 < 0.1 < float(losses["side"])


@pytest.mark.parametrize("is_identical", [True, False])
def test_silence_and_identity_have_finite_gradients(pair, is_identical):
    waveform = pair[0] if is_identical else torch.zeros(2, 2, 6000)
    decoded = waveform.clone().requires_grad_()
    loss = sum(stereo_stft_loss(waveform, decoded).values())
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(decoded.grad).all()


@pytest.mark.parametrize("gain", [0.25, 3.0])
def test_gain_closed_form(gain):
    """A reconstruction that is c times the original costs |c − 1| / c and |ln c|, far above the floor."""
    waveform = torch.randn(1, 2, 5000, generator=torch.Generator().manual_seed(0))
    waveform = 100 * waveform  # the filter is never deaf enough to come near the floor
    expected = torch.tensor(abs(gain - 1) / gain + abs(math.log(gain)))
    for loss in stereo_stft_loss(waveform, gain * waveform).values():
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


def test_common_gain_changes_nothing(pair):
    generator = torch.Generator().manual_seed(0)
    waveform, decoded = (100 * audio + torch.randn(audio.shape, generator=generator) for audio in pair)
    losses = stereo_stft_loss(waveform, decoded)
    louder = stereo_stft_loss(10 * waveform, 10 * decoded)
    for name in SIGNAL_WEIGHTS:
        torch.testing.assert_close(louder[name], losses[name], rtol=1e-4, atol=0)


def test_losses_average_over_resolutions(pair):
    sizes = (512, 128, 32)
    single = [stereo_stft_loss(*pair, fft_sizes=[size]) for size in sizes]
    for name, loss in stereo_stft_loss(*pair, fft_sizes=sizes).items():
        torch.testing.assert_close(loss, sum(losses[name] for losses in single) / 3)


def test_a_weighting_is_the_filter_before_the_loss(pair):
    filtered = [a_weighting(audio, 44100) for audio in pair]
    weighted, plain = stereo_stft_loss(*pair), stereo_stft_loss(*filtered, is_a_weighted=False)
    assert all(torch.equal(weighted[name], plain[name]) for name in SIGNAL_WEIGHTS)


# The complex error


SIZES = (1024, 512, 256)


def complex_stft(waveform, decoded, sizes=SIZES, **options):
    return stereo_stft_loss(waveform, decoded, complex_fft_sizes=sizes, **options)["complex_stft"]


def test_complex_error_of_silence_and_of_a_gain(pair):
    waveform = pair[0]
    assert "complex_stft" not in stereo_stft_loss(*pair)
    assert complex_stft(waveform, waveform) == 0
    for gain in (-1.0, 0.0, 0.5, 3.0):
        torch.testing.assert_close(complex_stft(waveform, gain * waveform), torch.tensor(3 * abs(gain - 1)))


def test_complex_error_sees_the_phase_that_magnitudes_do_not(pair):
    """A change of sign is the largest error there is, and no error of the magnitudes."""
    waveform = pair[0]
    losses = stereo_stft_loss(waveform, -waveform, complex_fft_sizes=SIZES)
    assert losses["complex_stft"] == 6 and all(losses[name] == 0 for name in SIGNAL_WEIGHTS)


def test_complex_error_sums_over_sizes_and_leaves_the_other_losses_alone(pair):
    losses = stereo_stft_loss(*pair, fft_sizes=(512, 128), complex_fft_sizes=(1024, 512))
    plain = stereo_stft_loss(*pair, fft_sizes=(512, 128))
    assert all(torch.equal(losses[name], plain[name]) for name in SIGNAL_WEIGHTS)
    torch.testing.assert_close(losses["complex_stft"], complex_stft(*pair, (1024,)) + complex_stft(*pair, (512,)))


def test_complex_error_of_silence_has_a_gradient():
    decoded = torch.zeros(1, 2, 4000, requires_grad=True)
    complex_stft(torch.zeros(1, 2, 4000), decoded).backward()
    assert decoded.grad.isfinite().all()


# Parts


def test_magnitude_of_a_sinusoid_and_of_silence():
    """|STFT| of a cosine on bin k is half the sum of the window there, a quarter beside it; silence is 1e-4."""
    phase = 2 * math.pi * 10 / 128 * torch.arange(1024)
    magnitude = stft_magnitude(phase.cos(), 128)[:, 8:-8]
    torch.testing.assert_close(magnitude[10], torch.full_like(magnitude[10], 32.0), rtol=1e-3, atol=0)
    torch.testing.assert_close(magnitude[11], torch.full_like(magnitude[11], 16.0), rtol=1e-3, atol=0)
    assert stft_magnitude(torch.zeros(2, 3, 1024), 128).shape == (2, 3, 65, 33)
    torch.testing.assert_close(stft_magnitude(torch.zeros(1024), 128), torch.full((65, 33), 1e-4))


A_WEIGHTING_IN_DB = {20: -19.8, 100: -17.3, 500: -3.25, 1000: -0.13, 2000: 1.11, 8000: -1.84, 16000: -15.3}


def test_a_weighting_response():
    """What 101 taps at 44.1 kHz make of the curve: good in the middle, coarse below 100 Hz."""
    impulse = torch.zeros(1, 44100)
    impulse[0, 22050] = 1
    response = torch.fft.rfft(a_weighting(impulse, 44100)[0].double()).abs()  # one bin a Hz
    for frequency, level_in_db in A_WEIGHTING_IN_DB.items():
        assert 20 * math.log10(response[frequency]) == pytest.approx(level_in_db, abs=0.3)


def test_a_weighting_is_centred_and_keeps_shape():
    impulse = torch.zeros(2, 3, 501)
    impulse[..., 250] = 1
    filtered = a_weighting(impulse, 44100)
    assert filtered.shape == impulse.shape
    torch.testing.assert_close(filtered, filtered.flip(-1))
    assert int(filtered[0, 0].abs().argmax()) == 250
    assert filtered[..., :200].abs().max() == 0


@pytest.mark.parametrize(
    "shapes",
    [((1, 2, 6000), (1, 2, 5999)), ((1, 1, 6000), (1, 1, 6000)), ((2, 6000), (2, 6000))],
)
def test_wrong_shapes(shapes):
    with pytest.raises(ValueError, match="must both be"):
        stereo_stft_loss(*(torch.zeros(shape) for shape in shapes))
