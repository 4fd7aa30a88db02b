"""MusiCNN, a music tagger with 0.8 M parameters; its published weights are in its PyPI wheel.

`stable-longform evaluate prepare` downloads the wheel (29 MB, ISC licence) and converts its TensorFlow checkpoints to
safetensors in the cache folder. There are two networks of the same architecture: "mtt" was trained on MagnaTagATune,
"msd" on the Million Song Dataset, with 50 tags each.

Conventions: mono at 16 kHz; windows of 187 frames (3 s) without overlap, an incomplete last one is dropped; embeddings
are the 200 units before the last layer.

References: Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging" (2019), and
the package musicnn 0.1.0.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from stable_longform.metrics.embedders.features import (
    AudioFeatures,
    cache_dir,
    check_waveform,
    mel_filters,
)
from stable_longform.metrics.embedders.tensorflow_checkpoint import read_checkpoint
from stable_longform.metrics.embedders.wheels import Wheel, open_wheel
from stable_longform.utils.files import atomic_path, weights_sha256

WHEEL = Wheel(
    "musicnn==0.1.0",
    "musicnn-0.1.0-py3-none-any.whl",
    "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
)
SAMPLING_RATE, FFT_SIZE, HOP_LENGTH, NUM_MELS, WINDOW_FRAMES = 16000, 512, 256, 96, 187
NUM_TAGS, EMBEDDING_DIM = 50, 200
TIMBRAL_WIDTHS, TEMPORAL_LENGTHS = (38, 67), (128, 64, 32)  # in mel bands; in frames
BATCH_SIZE = 8  # windows at a time

# Names of the classes, in the order of the networks' outputs.
TAGS = {
    "mtt": (
        "guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, "
        "vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, "
        "woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male voice, "
        "female vocal, beats, harp, cello, no voice, weird, country, metal, female voice, choral"
    ).split(", "),
    "msd": (
        "rock, pop, alternative, indie, electronic, female vocalists, dance, 00s, alternative rock, jazz, beautiful, "
        "metal, chillout, male vocalists, classic rock, soul, indie rock, Mellow, electronica, 80s, folk, 90s, chill, "
        "instrumental, punk, oldies, blues, hard rock, ambient, acoustic, experimental, female vocalist, guitar, "
        "Hip-Hop, 70s, party, country, easy listening, sexy, catchy, funk, electro, heavy metal, Progressive rock, "
        "60s, rnb, indie pop, sad, House, happy"
    ).split(", "),
}


class ConvReluNorm(nn.Module):
    """Convolution, ReLU, batch norm, in this order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int]):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, C, num_frames, num_bands)`, zero-padded in time to keep the number of frames."""
        length = self.conv.kernel_size[0]
        hidden_states = F.pad(hidden_states, (0, 0, (length - 1) // 2, length // 2))
        return self.norm(F.relu(self.conv(hidden_states)))


class MusiCNN(nn.Module):
    """The network: timbral and temporal filters, three dense layers over time, pooling, two linear layers."""

    def __init__(self):
        super().__init__()
        self.norm_in = nn.BatchNorm2d(1, eps=1e-3)
        self.timbral = nn.ModuleList(ConvReluNorm(1, 204, (7, width)) for width in TIMBRAL_WIDTHS)
        self.temporal = nn.ModuleList(ConvReluNorm(1, 51, (length, 1)) for length in TEMPORAL_LENGTHS)
        width = 2 * 204 + 3 * 51
        self.middle = nn.ModuleList(ConvReluNorm(channels, 64, (7, 1)) for channels in (width, 64, 64))
        self.norm_pool = nn.BatchNorm1d(2 * (width + 3 * 64), eps=1e-3)
        self.dense = nn.Linear(2 * (width + 3 * 64), EMBEDDING_DIM)
        self.norm_dense = nn.BatchNorm1d(EMBEDDING_DIM, eps=1e-3)
        self.output = nn.Linear(EMBEDDING_DIM, NUM_TAGS)

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns embeddings `(B, 200)` and logits `(B, 50)` of log-mel windows `(B, num_frames, 96)`."""
        hidden_states = self.norm_in(log_mel[:, None])  # (B, 1, L, 96)
        front = [block(hidden_states).amax(dim=3) for block in (*self.timbral, *self.temporal)]
        layers = [torch.cat(front, dim=1)[..., None]]  # (B, 561, L, 1)
        for number, block in enumerate(self.middle):
            output = block(layers[-1])
            layers.append(output + layers[-1] if number else output)
        features = torch.cat(layers, dim=1)[..., 0]  # (B, 753, L)
        pooled = torch.stack([features.amax(dim=2), features.mean(dim=2)], dim=2).flatten(
            1
        )  # maximum and mean alternate
        embeddings = self.norm_dense(F.relu(self.dense(self.norm_pool(pooled))))
        return embeddings, self.output(embeddings)


class MusicnnEmbedder:
    """Embeddings and tag logits of mono audio at 16 kHz, `name` "musicnn_mtt" or "musicnn_msd".

    Args:
        dataset: "mtt" or "msd".
        device: where the network runs.

    Raises:
        ValueError: the data set is unknown, or its weights are not in the cache.
    """

    sampling_rate, num_channels = SAMPLING_RATE, 1
    metrics = ("fd", "kl", "tag_text")

    def __init__(self, dataset: str, device: str | torch.device = "cpu"):
        path = weights_path(dataset)
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: run `stable-longform evaluate prepare` once, which gets it with pip."
            )
        self.name, self.tags, self.device = f"musicnn_{dataset}", TAGS[dataset], torch.device(device)
        self.network = MusiCNN()
        self.network.load_state_dict(load_file(path))
        self.network.to(self.device).eval()

    @property
    def protocol(self) -> dict:
        """Everything that the numbers depend on."""
        return {
            "network": self.name,
            "weights_sha256": weights_sha256(self.network),
            "source": f"PyPI {WHEEL.requirement}",
            "window_in_s": WINDOW_FRAMES * HOP_LENGTH / SAMPLING_RATE,
            "sampling_rate": SAMPLING_RATE,
            "channels": "mean of left and right",
        }

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(1, num_samples)`, at least 187 frames.

        Raises:
            ValueError: the waveform has another shape, is too short or is not finite.
        """
        check_waveform(waveform, 1, (WINDOW_FRAMES - 1) * HOP_LENGTH)
        frames = log_mel_spectrogram(waveform[0])
        num_windows = len(frames) // WINDOW_FRAMES
        windows = frames[: num_windows * WINDOW_FRAMES].reshape(num_windows, WINDOW_FRAMES, NUM_MELS)
        outputs = [self.network(batch.to(self.device)) for batch in windows.split(BATCH_SIZE)]
        embeddings, logits = (torch.cat(part).cpu().numpy() for part in zip(*outputs, strict=True))
        return AudioFeatures(embeddings, logits)


def log_mel_spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    """log₁₀(1 + 10⁴·mel power) of `(num_samples,)` at 16 kHz, `(num_frames, 96)`, as in musicnn.

    musicnn computes in half precision from the mel power on, which overflows for loud tones; only these values are
    computed in float32 here.
    """
    spectrum = torch.stft(
        waveform.float(),
        FFT_SIZE,
        HOP_LENGTH,
        window=torch.hann_window(FFT_SIZE),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    mel = (mel_filters(SAMPLING_RATE, FFT_SIZE, NUM_MELS) @ spectrum.abs().square()).T
    logarithm = (mel.half() * 10000 + 1).log10().float()
    return torch.where(logarithm.isfinite(), logarithm, (mel * 10000 + 1).log10())


def weights_path(dataset: str) -> Path:
    """The path of the converted weights for a data set.

    Raises:
        ValueError: there is no network for the data set.
    """
    if dataset not in TAGS:
        raise ValueError(f"dataset must be one of {', '.join(TAGS)}, got {dataset!r}.")
    return cache_dir() / "musicnn" / f"{dataset}.safetensors"


def convert_checkpoint(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Converts the variables of musicnn's TensorFlow graph to the state of `MusiCNN`.

    Raises:
        KeyError: a variable is missing.
    """
    state = {}

    def take(target: str, source: str, layout: tuple[int, ...]) -> None:
        state[f"{target}.weight"] = torch.from_numpy(tensors[f"{source}/kernel"].transpose(layout).copy())
        state[f"{target}.bias"] = torch.from_numpy(tensors[f"{source}/bias"])

    def take_norm(target: str, number: int) -> None:
        source = "batch_normalization" + (f"_{number}" if number else "")
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        state.update({f"{target}.{ours}": torch.from_numpy(tensors[f"{source}/{tf}"]) for ours, tf in names.items()})
        state[f"{target}.num_batches_tracked"] = torch.tensor(0)

    take_norm("norm_in", 0)
    blocks = (
        [f"timbral.{n}" for n in range(2)] + [f"temporal.{n}" for n in range(3)] + [f"middle.{n}" for n in range(3)]
    )
    for number, block in enumerate(blocks):
        # Height, width, in, out to out, in, height, width; in the middle the width is the channels of the layer below.
        layout = (3, 1, 0, 2) if block.startswith("middle") else (3, 2, 0, 1)
        take(f"{block}.conv", "conv2d" + (f"_{number}" if number else ""), layout)
        take_norm(f"{block}.norm", number + 1)
    take_norm("norm_pool", len(blocks) + 1)
    take("dense", "dense", (1, 0))
    take_norm("norm_dense", len(blocks) + 2)
    take("output", "dense_1", (1, 0))
    return state


def prepare_weights(wheel: Path | None = None) -> list[Path]:
    """Converts the weights in musicnn's wheel, which pip downloads unless it is given; existing files are kept.

    Raises:
        ValueError: pip fails, or the wheel is not the published one.
    """
    paths = [weights_path(dataset) for dataset in TAGS]
    if all(path.is_file() for path in paths):
        return paths
    with open_wheel(WHEEL, wheel) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder, [name for name in archive.namelist() if "_musicnn/." in name])
        for dataset, path in zip(TAGS, paths, strict=True):
            tensors = read_checkpoint(f"{folder}/musicnn/{dataset.upper()}_musicnn/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                save_file(convert_checkpoint(tensors), temporary)
    return paths
