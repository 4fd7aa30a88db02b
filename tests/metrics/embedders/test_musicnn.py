"""MusiCNN: the front end against librosa and numpy's halves, the network against its TensorFlow graph in numpy."""

import librosa
import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders import musicnn
from stable_longform.metrics.embedders.features import CACHE_VARIABLE
from stable_longform.metrics.embedders.musicnn import MusiCNN, MusicnnEmbedder, convert_checkpoint, log_mel_spectrogram

# Kernels of the convolutions in the order of the graph: height, width, in, out.
KERNELS = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
KERNELS += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]


@pytest.fixture(scope="module")
def variables():
    """Random variables with the names and shapes of musicnn's graph."""
    rng = np.random.default_rng(0)
    shapes = {f"conv2d{f'_{n}' if n else ''}": kernel for n, kernel in enumerate(KERNELS)}
    shapes |= {"dense": (1506, 200), "dense_1": (200, 50)}
    found = {f"{name}/kernel": 0.2 * rng.normal(size=s) / np.sqrt(np.prod(s[:-1])) for name, s in shapes.items()}
    found |= {f"{name}/bias": 0.1 * rng.normal(size=shape[-1]) for name, shape in shapes.items()}
    for number, size in enumerate([1, *(kernel[-1] for kernel in KERNELS), 1506, 200]):
        name = "batch_normalization" + (f"_{number}" if number else "")
        for part in ("gamma", "beta", "moving_mean"):  # negative factors, too: the order of norm and maximum matters
            found[f"{name}/{part}"] = rng.normal(size=size)
        found[f"{name}/moving_variance"] = rng.uniform(0.5, 2, size=size)
    return {name: value.astype(np.float32) for name, value in found.items()}


def graph(variables, frames):
    """The TensorFlow graph in numpy, channels last: embeddings and logits of one window `(L, 96)`."""

    def norm(values, number):
        name = "batch_normalization" + (f"_{number}" if number else "")
        mean, variance, gamma, beta = (
            variables[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (values - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def conv(image, number):  # image (L, bands); "same" in time, "valid" in frequency
        kernel = variables[f"conv2d{f'_{number}' if number else ''}/kernel"][:, :, 0]
        total = kernel.shape[0] - 1
        padded = np.pad(image, ((total // 2, total - total // 2), (0, 0)))
        views = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2])
        output = np.einsum("tfhw,hwo->tfo", views, kernel, optimize=True)
        output = np.maximum(output + variables[f"conv2d{f'_{number}' if number else ''}/bias"], 0)
        return norm(output, number + 1)

    image = norm(frames[..., None], 0)[..., 0]
    front = np.concatenate([conv(image, number).max(axis=1) for number in range(5)], axis=1)
    first = conv(front, 5)[:, 0]
    second = conv(first, 6)[:, 0] + first
    third = conv(second, 7)[:, 0] + second
    features = np.concatenate([front, first, second, third], axis=1)
    pooled = np.stack([features.max(axis=0), features.mean(axis=0)], axis=1).reshape(-1)
    pooled = norm(pooled, 9)
    embedding = norm(np.maximum(pooled @ variables["dense/kernel"] + variables["dense/bias"], 0), 10)
    return embedding, embedding @ variables["dense_1/kernel"] + variables["dense_1/bias"]


def test_network_equals_the_graph(variables):
    network = MusiCNN()
    network.load_state_dict(convert_checkpoint(variables))
    assert sum(parameter.numel() for parameter in network.parameters()) == 787_159
    frames = np.random.default_rng(1).uniform(0, 4, size=(2, 24, 96)).astype(np.float32)
    with torch.no_grad():
        outputs = network.eval()(torch.from_numpy(frames))
    for number, window in enumerate(frames):
        for output, expected in zip(outputs, graph(variables, window.astype(np.float64)), strict=True):
            np.testing.assert_allclose(output[number], expected, rtol=2e-4, atol=2e-5)


def test_front_end_equals_librosa_and_halves(make_audio):
    waveform = 0.3 * make_audio(3 * 16000, 1, 16000)[0]
    mel = librosa.feature.melspectrogram(y=waveform.numpy(), sr=16000, n_fft=512, hop_length=256, n_mels=96).T
    expected = np.log10(10000 * mel.astype(np.float16) + 1)
    assert expected.dtype == np.float16 and np.isfinite(expected).all()
    ours = log_mel_spectrogram(waveform)
    assert ours.shape == expected.shape
    # A mel power beside the middle of two halves may be rounded either way.
    assert np.abs(ours.numpy() - expected.astype(np.float32)).max() < 4e-3
    assert (ours.numpy() == expected.astype(np.float32)).mean() > 0.99


def test_loud_tones_do_not_overflow():
    waveform = torch.sin(2 * torch.pi * 200 / 16000 * torch.arange(16000))
    frames = log_mel_spectrogram(waveform)
    mel = librosa.feature.melspectrogram(y=waveform.numpy(), sr=16000, n_fft=512, hop_length=256, n_mels=96)
    assert mel.max() * 10000 > np.finfo(np.float16).max
    assert float(frames.max()) == pytest.approx(np.log10(mel.max() * 10000), rel=1e-3)


@pytest.fixture
def embedder(variables, tmp_path, monkeypatch):
    """An embedder of random weights."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="mtt.safetensors is missing: run `stable-longform evaluate prepare`"):
        MusicnnEmbedder("mtt")
    path = musicnn.weights_path("mtt")
    path.parent.mkdir(parents=True)
    musicnn.save_file(convert_checkpoint(variables), path)
    return MusicnnEmbedder("mtt")


def test_embedder_cuts_windows_of_three_seconds(embedder, make_audio):
    waveform = make_audio(7 * 16000, 1, 16000)
    features = embedder(waveform)  # 438 frames
    assert features.embeddings.shape == (2, 200) and features.logits.shape == (2, 50) == (2, len(embedder.tags))
    first = embedder(waveform[:, : 187 * 256 + 256])  # the second window is not needed for the first
    np.testing.assert_allclose(first.embeddings[0], features.embeddings[0], rtol=1e-4, atol=1e-5)
    for bad in (waveform[:, : 186 * 256 - 1], waveform.expand(2, -1), waveform * torch.nan):
        with pytest.raises(ValueError, match="waveform must be"):
            embedder(bad)
    with pytest.raises(ValueError, match="one of mtt, msd, got 'vgg'"):
        MusicnnEmbedder("vgg")


def test_protocol_names_the_weights(embedder):
    before = embedder.protocol["weights_sha256"]
    assert len(before) == 64 and before == embedder.protocol["weights_sha256"]
    with torch.no_grad():
        embedder.network.output.bias[0] += 1e-3
    assert embedder.protocol["weights_sha256"] != before


def test_another_wheel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    wheel = tmp_path / musicnn.WHEEL.file_name
    wheel.write_bytes(b"no wheel")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        musicnn.prepare_weights(wheel)
    assert not musicnn.weights_path("mtt").exists()
