"""Validation of an autoencoder: measures and samples of reconstructions of fixed crops of held-out music."""

from pathlib import Path

import torch
from accelerate import Accelerator

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import Source
from stable_longform.metrics.reconstruction import measure_reconstruction
from stable_longform.metrics.tonality import partial_share
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.items import VALIDATION_SEED
from stable_longform.training_utils.processes import share_out
from stable_longform.utils.audio import write_audio
from stable_longform.utils.pictures import draw_spectrograms

LATENT_NOISE_IN_DB = -10.0  # relative to the latents: similar to the error of a transformer


def validation_crops(source: Source, vae: AutoencoderOobleck, duration_in_s: float, count: int) -> torch.Tensor:
    """Crops `(count, 2, num_samples)` of whole latent frames, the same at every call.

    Args:
        source: held-out tracks.
        vae: determines the sampling rate and the length of a frame.
        duration_in_s: of each crop, rounded to whole frames, at least one.
        count: at least 1.
    """
    rate = vae.config.sampling_rate
    num_frames = max(round(duration_in_s * rate / vae.hop_length), 1)
    make_item = CropMaker(num_frames * vae.hop_length, rate, phase_flip_probability=0.0)
    return torch.stack([item["waveform"] for item in source.items(make_item, VALIDATION_SEED).take(count)])


@torch.no_grad()
def validate_reconstruction(
    vae: AutoencoderOobleck, waveform: torch.Tensor, samples_dir: Path, num_samples: int, accelerator: Accelerator
) -> tuple[torch.Tensor, dict[str, float]]:
    """Decodes the means of the crops' posteriors and measures the result.

    Args:
        vae: on any device.
        waveform: `(B, 2, num_samples)` on the CPU.
        samples_dir: folder for audio files and spectrograms; created if there are any.
        num_samples: number of crops that are written there, as original and reconstruction.
        accelerator: of the run; the crops are shared out to its processes, each of which must call this.

    Returns:
        The reconstructions on the CPU, and the means over the crops of `measure_reconstruction`, of the KL loss and of
        `noisy_partial_share`. The latter is the share in partials after white noise is added to the latents: if the
        music does not survive this, the latents are hard to generate.
    """

    def validate_crop(number: int) -> tuple[torch.Tensor, dict[str, float]]:
        original = waveform[number]
        output = vae(original[None].to(vae.device))
        reconstruction = output.sample[0].float().cpu()
        metrics = measure_reconstruction(reconstruction, original, vae.config.sampling_rate)
        noisy = vae.decode(add_latent_noise(output.posterior.mode().to(vae.dtype))).sample[0].float().cpu()
        metrics["noisy_partial_share"] = partial_share(noisy, vae.config.sampling_rate)
        metrics["kl"] = float(output.posterior.kl())
        if number < num_samples:
            _write_sample(samples_dir, number, original, reconstruction, vae.config.sampling_rate)
        return reconstruction, metrics

    decoded, rows = zip(*share_out(accelerator, len(waveform), validate_crop), strict=True)
    return torch.stack(decoded), {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def add_latent_noise(latents: torch.Tensor) -> torch.Tensor:
    """Adds white noise at `LATENT_NOISE_IN_DB` relative to the latents' power, the same at every call."""
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return latents + 10 ** (LATENT_NOISE_IN_DB / 20) * latents.square().mean().sqrt() * noise


def _write_sample(
    folder: Path, number: int, original: torch.Tensor, reconstruction: torch.Tensor, sampling_rate: int
) -> None:
    """Writes both as audio, and a picture of both spectrograms."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = {"original": original, "reconstruction": reconstruction}
    for name, waveform in pair.items():
        write_audio(folder / f"{number}-{name}.flac", waveform, sampling_rate)
    draw_spectrograms(pair, sampling_rate, folder / f"{number}.png")
