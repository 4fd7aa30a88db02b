"""Reconstructions by autoencoders and codecs, and their distances from the originals: the paper's Table 5 and more.

Every codec runs at its own rate and number of channels; a mono codec gets left and right one after the other. The
distances are computed in stereo at the rate of the report, file by file, and then averaged. Paper: §4.3.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from stable_longform.evaluation.audio_files import (
    Audio,
    ReadingSettings,
    UnusableAudioError,
    audio_hash,
    load_audio,
    to_channels,
)
from stable_longform.metrics.reconstruction import measure_reconstruction
from stable_longform.metrics.visqol import visqol
from stable_longform.utils.audio import resample
from stable_longform.utils.caches import cached_json

logger = logging.getLogger(__name__)

REPORT_RATE = 44100  # Hz
VALUES_VERSION = 3  # of the cached values; 3: all of `measure_reconstruction`
METRICS = ("stft_distance", "mel_distance", "si_sdr")  # of the paper
MORE_METRICS = (
    "joint_si_sdr",
    "chroma_agreement",
    "partial_share",
    "reference_partial_share",
    "note_share",
    "reference_note_share",
)


@dataclass(frozen=True)
class Codec:
    """An encoder and decoder of audio.

    Args:
        name: for the report.
        sampling_rate: Hz.
        num_channels: of one call, 1 or 2.
        reconstruct: maps `(batch_size, num_channels, num_samples)` to the same shape.
        protocol: everything that the result depends on, as JSON.
    """

    name: str
    sampling_rate: int
    num_channels: int
    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    protocol: dict


def codec_of_autoencoder(vae, name: str, protocol: dict) -> Codec:
    """Our autoencoder, or diffusers' `AutoencoderOobleck`; the latents are the posterior's means."""

    def reconstruct(waveform: torch.Tensor) -> torch.Tensor:
        hop_length, num_samples = vae.hop_length, waveform.shape[-1]
        padded = torch.nn.functional.pad(waveform, (0, -num_samples % hop_length)).to(vae.device, vae.dtype)
        return vae.decode(vae.encode(padded).latent_dist.mode()).sample[..., :num_samples].cpu().float()

    return Codec(name, vae.config.sampling_rate, vae.config.audio_channels, reconstruct, protocol)


def codec_of_transformers(model, name: str, protocol: dict) -> Codec:
    """A codec of transformers whose `forward` returns `audio_values`: EnCodec, DAC, Mimi ...

    Raises:
        ValueError: the model's configuration has no `sampling_rate`.
    """
    sampling_rate = getattr(model.config, "sampling_rate", None)
    if sampling_rate is None or not hasattr(model, "decode"):
        raise ValueError(f"{name} is not an audio codec of transformers.")
    hop_length = getattr(model.config, "hop_length", 1)

    def reconstruct(waveform: torch.Tensor) -> torch.Tensor:
        num_samples = waveform.shape[-1]
        padded = torch.nn.functional.pad(waveform, (0, -num_samples % hop_length)).to(model.device, model.dtype)
        decoded = model(padded).audio_values.cpu().float()
        decoded = decoded.reshape(waveform.shape[0], waveform.shape[1], -1)[..., :num_samples]
        return torch.nn.functional.pad(decoded, (0, num_samples - decoded.shape[-1]))

    return Codec(name, sampling_rate, getattr(model.config, "audio_channels", 1), reconstruct, protocol)


@torch.no_grad()
def reconstruct_stereo(codec: Codec, audio: Audio) -> tuple[torch.Tensor, torch.Tensor]:
    """The reconstruction and the original, both `(2, num_samples)` at 44.1 kHz."""
    stereo = to_channels(audio, 2, REPORT_RATE)
    waveform = resample(stereo, REPORT_RATE, codec.sampling_rate)
    batch = waveform[None] if codec.num_channels == 2 else waveform[:, None]
    decoded = codec.reconstruct(batch).reshape(2, -1)
    decoded = resample(decoded, codec.sampling_rate, REPORT_RATE)[:, : stereo.shape[1]]
    return torch.nn.functional.pad(decoded, (0, stereo.shape[1] - decoded.shape[1])), stereo


def score_reconstructions(
    codec: Codec, files: Mapping[str, Path], settings: ReadingSettings, cache: Path, with_visqol: bool = False
) -> dict:
    """Table 5's row of a codec, and `MORE_METRICS`.

    Args:
        codec: what to measure.
        files: the recordings by name, as from `list_audio` and `list_tracks`.
        settings: how they are read.
        cache: folder for the values of each file, so that an interrupted run can continue.
        with_visqol: whether to measure "visqol" too, which must be installed.

    Returns:
        `per_file` (name to values), `skipped` (name to reason; includes silent recordings, for which SI-SDR is
        undefined), `notes` (name to properties of the file, such as one silent channel) and the means, by metric; a
        mean is None if no file was usable.
    """
    cache.mkdir(parents=True, exist_ok=True)
    suffix = f"{VALUES_VERSION}-visqol" if with_visqol else f"{VALUES_VERSION}"
    per_file: dict[str, dict] = {}
    skipped: dict[str, str] = {}
    notes: dict[str, dict] = {}
    for name, path in tqdm(files.items(), desc=codec.name, unit="file"):
        try:
            stored = cache / f"{audio_hash(path)}-{suffix}.json"
            per_file[name] = cached_json(stored, partial(_score_file, codec, path, settings, with_visqol))
            notes |= {name: found} if (found := per_file[name].pop("notes")) else {}
        except (UnusableAudioError, OSError) as error:
            logger.warning("%s is left out: %s", path, error)
            skipped[name] = str(error)
    means = {
        metric: sum(row[metric] for row in per_file.values()) / len(per_file) if per_file else None
        for metric in (*METRICS, *MORE_METRICS, *(("visqol",) if with_visqol else ()))
    }
    return {"per_file": per_file, "skipped": skipped, "notes": notes, **means}


def _score_file(
    codec: Codec, path: Path, settings: ReadingSettings, with_visqol: bool
) -> dict[str, float | list[str]]:
    """The metrics of one file, and the notes about it."""
    audio = load_audio(path, settings)
    if "silent" in audio.notes:
        raise UnusableAudioError("silent: SI-SDR is undefined")
    decoded, original = reconstruct_stereo(codec, audio)
    if not decoded.isfinite().all():
        raise UnusableAudioError(f"{codec.name}: a reconstruction that is not finite")
    try:
        values = measure_reconstruction(decoded, original, REPORT_RATE)
        values |= {"visqol": visqol(decoded, original, REPORT_RATE)} if with_visqol else {}
    except ValueError as error:
        raise UnusableAudioError(f"{codec.name}: {error}") from error
    return values | {"notes": list(audio.notes)}
