"""OpenL3's audio network (mel256, music, 512 dimensions) in torch: the embedding of the paper's FD.

The published weights, `openl3_audio_mel256_music-v0_4_0.h5` (github.com/marl/openl3, branch "models"), are read
directly with h5py. They were not available where this package was written: the front end, the layers and the reading
of the file are tested, the network with its real weights is not.

Conventions: stereo at 44.1 kHz, resampled to 48 kHz (soxr here, resampy there); half a second of silence before the
start, so that windows are centred on multiples of half a second; windows of 1 s every 0.5 s, the last one padded with
silence; the embeddings of left and right are concatenated, `(num_windows, 1024)`.

References: Cramer et al., "Look, listen, and learn more" (2019); package openl3 0.4. Paper: §4.1, FD_openl3, with the
settings of the authors' code.
"""

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stable_longform.metrics.embedders.features import AudioFeatures, check_waveform, mel_filters
from stable_longform.utils.audio import resample
from stable_longform.utils.files import weights_sha256

INPUT_RATE, SAMPLING_RATE = 44100, 48000
FFT_SIZE, HOP_LENGTH, NUM_MELS, NUM_FRAMES = 2048, 242, 256, 199
WINDOW_IN_S, HOP_IN_S = 1.0, 0.5
FLOOR, RANGE_IN_DB = 1e-10, 80.0
WIDTHS = (64, 128, 256, 512)
BATCH_SIZE = 16


class OpenL3(nn.Module):
    """Eight 3×3 convolutions in four blocks with pooling between them, then the maximum over time and frequency."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(1, eps=1e-3)]
        in_channels = 1
        for block, width in enumerate(WIDTHS):
            for number in range(2):
                layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
                in_channels = width
                if (block, number) != (len(WIDTHS) - 1, 1):
                    layers += [nn.BatchNorm2d(width, eps=1e-3), nn.ReLU()]
            if block < len(WIDTHS) - 1:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, 512)` of spectrograms in dB, `(B, 256, 199)`."""
        return self.layers(log_mel[:, None]).amax(dim=(2, 3))


class OpenL3Embedder:
    """Embeddings of stereo audio at 44.1 kHz, `name` "openl3".

    Args:
        network: with its weights.
        device: where it runs.
        source: for the report.
    """

    name, sampling_rate, num_channels = "openl3", INPUT_RATE, 2
    metrics = ("fd",)

    def __init__(self, network: OpenL3, device: str | torch.device = "cpu", source: str = ""):
        self.network, self.device, self.source = network.to(device).eval(), torch.device(device), source

    @classmethod
    def from_file(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> "OpenL3Embedder":
        """Opens the published weights.

        Raises:
            ValueError: see `read_keras_weights`.
        """
        network = OpenL3()
        network.load_state_dict(read_keras_weights(path))
        return cls(network, device, os.path.basename(path))

    @property
    def protocol(self) -> dict:
        """Everything that the numbers depend on."""
        return {
            "network": "openl3 mel256 music 512",
            "weights_sha256": weights_sha256(self.network),
            "source": self.source,
            "window_in_s": WINDOW_IN_S,
            "hop_in_s": HOP_IN_S,
            "sampling_rate": INPUT_RATE,
            "channels": "left and right side by side",
        }

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(2, num_samples)`.

        Raises:
            ValueError: the waveform has another shape, is empty or is not finite.
        """
        check_waveform(waveform, 2, 1)
        windows = cut_windows(resample(waveform, INPUT_RATE, SAMPLING_RATE))  # (2, W, N)
        outputs = []
        for channel in windows:
            spectra = (spectrogram(part).to(self.device) for part in channel.split(BATCH_SIZE))
            outputs.append(torch.cat([self.network(part).cpu() for part in spectra]))
        return AudioFeatures(torch.cat(outputs, dim=1).numpy())


def cut_windows(waveform: torch.Tensor) -> torch.Tensor:
    """Windows of 1 s every 0.5 s, `(channels, num_windows, 48000)`, of `(channels, num_samples)` at 48 kHz."""
    length, hop = round(WINDOW_IN_S * SAMPLING_RATE), round(HOP_IN_S * SAMPLING_RATE)
    padded = F.pad(waveform, (length // 2, 0))
    missing = max(length - padded.shape[1], (length - padded.shape[1]) % hop)
    return F.pad(padded, (0, missing)).unfold(1, length, hop)


def spectrogram(windows: torch.Tensor) -> torch.Tensor:
    """Mel magnitudes in dB relative to the window's maximum, `(B, 256, 199)`, of `(B, 48000)`; at least −80."""
    padded = F.pad(windows, (0, (NUM_FRAMES - 1) * HOP_LENGTH + FFT_SIZE - windows.shape[1]))
    window = torch.hann_window(FFT_SIZE)
    spectrum = torch.stft(padded, FFT_SIZE, HOP_LENGTH, window=window, center=False, return_complex=True)
    mel = mel_filters(SAMPLING_RATE, FFT_SIZE, NUM_MELS) @ spectrum.abs()
    decibels = 10 * mel.clamp(min=FLOOR).log10()
    return (decibels - decibels.amax(dim=(1, 2), keepdim=True)).clamp(min=-RANGE_IN_DB)


def read_keras_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Reads the state of `OpenL3` from a Keras file of weights, layer by layer in the file's order.

    Raises:
        ValueError: it cannot be read, or its layers are not those of the network.
    """
    import h5py  # from the extra `eval`

    groups = []
    try:
        with h5py.File(path) as file:
            root = file["model_weights"] if "model_weights" in file else file
            for layer in root.attrs["layer_names"]:
                group = root[layer]
                arrays = [np.array(group[name]) for name in group.attrs["weight_names"]]
                groups.append([array for array in arrays if array.dtype.kind == "f"])
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a Keras file of weights: {error}") from error
    state, modules = {}, dict(OpenL3().layers.named_children())
    convolutions = [arrays for arrays in groups if len(arrays) == 2 and arrays[0].ndim == 4]
    norms = [arrays for arrays in groups if len(arrays) == 4 and arrays[0].ndim == 1]
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d) and convolutions:
            kernel, bias = convolutions.pop(0)
            state[f"layers.{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"layers.{name}.bias"] = torch.from_numpy(bias)
        elif isinstance(module, nn.BatchNorm2d) and norms:
            for key, array in zip(("weight", "bias", "running_mean", "running_var"), norms.pop(0), strict=True):
                state[f"layers.{name}.{key}"] = torch.from_numpy(array)
            state[f"layers.{name}.num_batches_tracked"] = torch.tensor(0)
    expected = OpenL3().state_dict()
    wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    if wrong or convolutions or norms:
        raise ValueError(f"{path} does not hold OpenL3's mel256 network: {', '.join(wrong) or 'more layers'}.")
    return state
