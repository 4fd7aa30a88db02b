"""OpenL3: size, front end against librosa, layers against numpy, windows, reading of a Keras file."""

import librosa
import numpy as np
import pytest
import torch

from stable_longform.metrics.embedders.openl3 import (
    OpenL3,
    OpenL3Embedder,
    cut_windows,
    read_keras_weights,
    spectrogram,
)

WIDTHS = (1, 64, 64, 128, 128, 256, 256, 512, 512)


@pytest.fixture(scope="module")
def network():
    """Random weights and statistics."""
    torch.manual_seed(0)
    network = OpenL3()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)
            torch.nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def test_number_of_parameters(network):
    convolutions = sum(9 * a * b + b for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
    norms = 2 * sum(WIDTHS[:-1])
    assert sum(parameter.numel() for parameter in network.parameters()) == convolutions + norms == 4_687_042


@torch.no_grad()
def test_layers_follow_keras(network):
    # Convolution, norm, ReLU twice, pooling that drops an odd last frame; the last convolution has neither norm nor
    # ReLU before the maximum.
    frames = 20 * torch.rand(1, 16, 19) - 40
    modules = list(network.layers)

    def conv(image, module):  # channels last, "same"
        kernel = module.weight.permute(2, 3, 1, 0).double().numpy()
        views = np.lib.stride_tricks.sliding_window_view(np.pad(image, ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1))
        return np.einsum("ftcij,ijco->fto", views, kernel, optimize=True) + module.bias.double().numpy()

    def norm(image, module):
        scale = module.weight.double() / (module.running_var.double() + 1e-3).sqrt()
        return (image - module.running_mean.double().numpy()) * scale.numpy() + module.bias.double().numpy()

    image = norm(frames[0, ..., None].double().numpy(), modules.pop(0))
    for width in (64, 128, 256, 512):
        for last in (False, True):
            image = conv(image, modules.pop(0))
            assert image.shape[-1] == width
            if not (width == 512 and last):
                image = np.maximum(norm(image, modules.pop(0)), 0)
                modules.pop(0)
        if width < 512:
            modules.pop(0)
            image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            image = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, width).max(axis=(1, 3))
    assert not modules
    np.testing.assert_allclose(network(frames)[0], image.max(axis=(0, 1)), rtol=1e-3, atol=1e-4)


def test_front_end_equals_librosa(make_audio):
    waveform = make_audio(48000, 1, 48000)
    padded = np.pad(waveform[0].numpy(), (0, 198 * 242 + 2048 - 48000))
    magnitude = np.abs(librosa.stft(padded, n_fft=2048, hop_length=242, center=False))
    mel = librosa.filters.mel(sr=48000, n_fft=2048, n_mels=256) @ magnitude
    expected = librosa.amplitude_to_db(
        np.sqrt(np.maximum(mel, 1e-10)), ref=np.sqrt(mel.max()), amin=1e-10, top_db=None
    )
    ours = spectrogram(waveform)[0].numpy()
    assert ours.shape == (256, 199) and ours.max() == 0 and ours.min() >= -80
    np.testing.assert_allclose(ours, np.maximum(expected, -80), atol=1e-2)
    assert (spectrogram(torch.zeros(1, 48000)) == 0).all()  # silence is its own loudest


def test_windows_are_centred_on_half_seconds():
    for seconds, count in ((2, 4), (1, 2), (0.3, 1), (1.2, 3), (10, 20)):
        assert cut_windows(torch.ones(2, round(48000 * seconds))).shape == (2, count, 48000)
    windows = cut_windows(torch.arange(1, 96001.0)[None])[0]
    assert (windows[0, :24000] == 0).all() and windows[0, 24000] == 1
    torch.testing.assert_close(windows[2], torch.arange(24001, 72001.0))
    assert (windows[3] == torch.arange(48001, 96001.0)).all()


def test_left_and_right_stand_side_by_side(network, make_audio):
    embedder = OpenL3Embedder(network)
    waveform = make_audio(30000)
    features = embedder(waveform).embeddings
    assert features.shape == (2, 1024)
    swapped = embedder(waveform.flip(0)).embeddings
    np.testing.assert_allclose(swapped, np.concatenate([features[:, 512:], features[:, :512]], axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="waveform must be"):
        embedder(waveform[:1])


def write_keras(path, network, root="", drop=0):
    """Writes the network's weights as Keras does: a group for each layer, arrays named in attributes."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        names = ["input_1"]
        group.create_group("input_1").attrs["weight_names"] = []
        for number, module in list(network.layers.named_children())[drop:]:
            if isinstance(module, torch.nn.Conv2d):
                arrays = {"kernel:0": module.weight.permute(2, 3, 1, 0), "bias:0": module.bias}
            elif isinstance(module, torch.nn.BatchNorm2d):
                values = module.weight, module.bias, module.running_mean, module.running_var
                keys = ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")
                arrays = dict(zip(keys, values, strict=True))
            else:
                arrays = {}
            names.append(f"layer_{number}")
            layer = group.create_group(names[-1])
            layer.attrs["weight_names"] = [f"{names[-1]}/{key}" for key in arrays]
            for key, array in arrays.items():
                layer.create_dataset(f"{names[-1]}/{key}", data=array.detach().numpy())
        group.attrs["layer_names"] = names
    return path


@pytest.mark.parametrize("root", ("", "model_weights"))
def test_keras_files_are_read(network, tmp_path, root):
    path = write_keras(tmp_path / "weights.h5", network, root)
    embedder = OpenL3Embedder.from_file(path)
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(embedder.network.state_dict()[name], tensor, rtol=0, atol=0)
    assert embedder.protocol["source"] == "weights.h5"


def test_other_files_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="does not hold OpenL3's mel256 network"):
        read_keras_weights(write_keras(tmp_path / "short.h5", network, drop=2))
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(ValueError, match="not a Keras file"):
        read_keras_weights(tmp_path / "text.h5")
