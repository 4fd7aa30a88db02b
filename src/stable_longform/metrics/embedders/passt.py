"""PaSST, an audio transformer that classifies AudioSet's 527 classes: the classifier of the paper's KL.

The published weights, `passt-s-f128-p16-s10-ap.476-swa.pt` (github.com/kkoutini/PaSST, release v0.0.1-audioset), have
the names of hear21passt. They were not available where this package was written: the front end, the layers and the
windows are tested, the network with its real weights is not.

Conventions: mono at 32 kHz; windows of 10 s every 5 s, the last one padded with silence; logits `(num_windows, 527)`,
which are averaged before the softmax.

References: Koutini et al., "Efficient training of audio transformers with patchout" (2022); package hear21passt.
Paper: §4.1, KL_passt, with the settings of the authors' code.
"""

import os
import pickle

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers.audio_utils import mel_filter_bank

from stable_longform.metrics.embedders.features import AudioFeatures, check_waveform
from stable_longform.utils.files import weights_sha256

SAMPLING_RATE, FFT_SIZE, WINDOW_LENGTH, HOP_LENGTH, NUM_MELS = 32000, 1024, 800, 320, 128
MAX_FREQUENCY, PREEMPHASIS = 15000.0, 0.97
PATCH_SIZE, PATCH_STRIDE = 16, 10  # in mel bands and frames
GRID = (12, 99)  # patches in frequency and, for 998 frames, in time
NUM_CLASSES = 527
WINDOW_IN_S, HOP_IN_S, MIN_FILLED_IN_S = 10, 5, 1.5
BATCH_SIZE = 4


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, S, dim)`."""
        query, key, value = self.qkv(hidden_states).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, S, dim)`."""
        return self.fc2(F.gelu(self.fc1(hidden_states)))


class Block(nn.Module):
    """A transformer block with its norms before attention and MLP."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, S, dim)`."""
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states))
        return hidden_states + self.mlp(self.norm2(hidden_states))


class PaSST(nn.Module):
    """The network, with hear21passt's names: overlapping patches, separate positions in frequency and time.

    Args:
        dim: width.
        depth: number of blocks.
        num_heads: of each block.
    """

    def __init__(self, dim: int = 768, depth: int = 12, num_heads: int = 12):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, dim, PATCH_SIZE, PATCH_STRIDE)})
        self.cls_token, self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(torch.zeros(1, 1, dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, dim, GRID[0], 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, GRID[1]))
        self.blocks = nn.Sequential(*(Block(dim, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, NUM_CLASSES))
        self.head_dist = nn.Linear(dim, NUM_CLASSES)  # in the file, but only used in training

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Logits `(B, 527)` of spectrograms `(B, 128, num_frames)`, at most 1005 frames."""
        patches = self.patch_embed["proj"](log_mel[:, None])  # (B, dim, 12, T)
        patches = patches + self.time_new_pos_embed[..., : patches.shape[3]] + self.freq_new_pos_embed
        tokens = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        sequence = torch.cat([tokens.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        sequence = self.norm(self.blocks(sequence))
        return self.head(sequence[:, :2].mean(dim=1))


class PasstEmbedder:
    """Logits of mono audio at 32 kHz, `name` "passt".

    Args:
        network: with its weights.
        device: where it runs.
        source: for the report.
    """

    name, sampling_rate, num_channels = "passt", SAMPLING_RATE, 1
    metrics = ("kl",)

    def __init__(self, network: PaSST, device: str | torch.device = "cpu", source: str = ""):
        self.network, self.device, self.source = network.to(device).eval(), torch.device(device), source

    @classmethod
    def from_file(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> "PasstEmbedder":
        """Opens the published weights, or a safetensors file with the same names.

        Raises:
            ValueError: the file cannot be read, or does not hold this network.
        """
        with torch.device("meta"):
            network = PaSST()
        try:
            if str(path).endswith(".safetensors"):
                state = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict(state, assign=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} does not hold the weights of PaSST: {error}") from error
        return cls(network, device, os.path.basename(path))

    @property
    def protocol(self) -> dict:
        """Everything that the numbers depend on."""
        return {
            "network": "passt_s_swa_p16_128_ap476",
            "weights_sha256": weights_sha256(self.network),
            "source": self.source,
            "window_in_s": WINDOW_IN_S,
            "hop_in_s": HOP_IN_S,
            "sampling_rate": SAMPLING_RATE,
            "channels": "mean of left and right",
        }

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Logits of the windows of `(1, num_samples)`, at least 16 frames of 320 samples.

        Raises:
            ValueError: the waveform has another shape, is too short or is not finite.
        """
        check_waveform(waveform, 1, PATCH_SIZE * HOP_LENGTH)
        parts = cut_windows(waveform[0]).split(BATCH_SIZE)
        logits = [self.network(log_mel_spectrogram(part).to(self.device)).cpu() for part in parts]
        return AudioFeatures(logits=torch.cat(logits).numpy())


def cut_windows(waveform: torch.Tensor) -> torch.Tensor:
    """Windows of 10 s every 5 s, `(num_windows, 320000)`, of `(num_samples,)` at 32 kHz.

    A recording of up to 1.5 s is one window with its own length.
    """
    length, hop = WINDOW_IN_S * SAMPLING_RATE, HOP_IN_S * SAMPLING_RATE
    num_samples = len(waveform)
    if num_samples <= MIN_FILLED_IN_S * SAMPLING_RATE:
        return waveform[None]
    starts = range(0, max(hop, num_samples - hop), hop)
    return torch.stack([F.pad(part := waveform[start : start + length], (0, length - len(part))) for start in starts])


def log_mel_spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    """Normalised log-mel power `(B, 128, num_frames)` of `(B, num_samples)` at 32 kHz."""
    emphasized = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
    window = torch.hann_window(WINDOW_LENGTH, periodic=False)
    spectrum = torch.stft(
        emphasized, FFT_SIZE, HOP_LENGTH, WINDOW_LENGTH, window=window, pad_mode="reflect", return_complex=True
    )
    filters = mel_filter_bank(
        FFT_SIZE // 2 + 1,
        NUM_MELS,
        0.0,
        MAX_FREQUENCY,
        SAMPLING_RATE,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    mel = torch.from_numpy(filters.T).float() @ spectrum.abs().square()
    return ((mel + 1e-5).log() + 4.5) / 5
