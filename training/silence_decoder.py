"""Teaches a decoder to be silent where the latents mean silence, even if they are noisy.

    python training/silence_decoder.py --autoencoder runs/decoder/autoencoder --manifest corpus/manifest.jsonl \
        --output_dir runs/decoder/silent

A transformer that was trained for a short time leaves noise in the latents of silence, and a decoder that has only
seen exact ones makes it audible. Here the decoder gets the latents of silence with noise, and its output's level is
the loss; for the latents of music it shall stay what it is. That asks for latents in which silence is set apart, as by
`normalize_latents.py --silence_distance`. The encoder is left alone, so latents stay valid. Not in the paper.
"""

import logging
from dataclasses import dataclass

import torch
from tqdm import tqdm

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.pretrained import export_model
from stable_longform.training_utils.train_step import check_finite

logger = logging.getLogger(__name__)

FLOOR = 1e-7  # mean square below which silence need not fall
WARMUP_STEPS = 20  # then the learning rate falls linearly to 0


@dataclass(frozen=True)
class Config:
    """`noise` is the largest deviation of what is added to the latents of silence; those of music have about 1."""

    autoencoder: str
    manifest: str  # any source: see stable_longform.data.sources
    output_dir: str
    max_steps: int = 240
    batch_size: int = 2  # crops of music, and as many of silence
    crop_latent_length: int = 24
    noise: float = 0.7
    music_weight: float = 10.0  # of the squared change of the music, relative to its mean square
    learning_rate: float = 4e-4
    seed: int = 0


def main(config: Config) -> None:
    """Loads, trains, says what it came to, saves."""
    if not config.noise > 0:
        raise ValueError(f"noise must be above 0, got {config.noise}.")
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder).requires_grad_(False)
    before = AutoencoderOobleck.from_pretrained(config.autoencoder).requires_grad_(False)
    rate = vae.config.sampling_rate
    make_item = CropMaker(config.crop_latent_length * vae.hop_length, rate)
    crops = open_source(config.manifest, "train").items(make_item, config.seed)
    items = crops.take((config.max_steps + 1) * config.batch_size)
    music, *batches = torch.stack([item["waveform"] for item in items]).split(config.batch_size)  # the first: left out
    power = before(music).sample.square().mean().clamp(min=FLOOR)
    silence = silent_latents(before)
    generator = torch.Generator().manual_seed(config.seed)
    decoder = vae.decoder.requires_grad_(True).train()
    optimizer = torch.optim.Adam(decoder.parameters(), config.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP_STEPS) * (1 - step / config.max_steps)
    )
    for batch in tqdm(batches, disable=None):
        latents = before.encode(batch).latent_dist.mode()
        noisy = add_noise(silence, latents.shape, config.noise, generator)
        quiet, result = decoder(torch.cat([noisy, latents])).split(config.batch_size)
        change = (result - before.decoder(latents)).square().mean() / power
        loss = levels(quiet).mean() + config.music_weight * change
        check_finite({"loss": loss}, schedule.last_epoch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    vae.eval()
    describe(before, vae, silence, music, config)
    export_model(vae, config.output_dir)


def silent_latents(vae: AutoencoderOobleck) -> torch.Tensor:
    """Latents `(1, C, 1)` of one frame of silence, far from the ends."""
    waveform = torch.zeros(1, vae.config.audio_channels, vae.hop_length * (2 * vae.encoder_context + 1))
    return vae.encode(waveform).latent_dist.mode()[:, :, vae.encoder_context, None]


def add_noise(silence: torch.Tensor, shape: torch.Size, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Latents `(B, C, L)` of silence, each item with noise of its own deviation, uniform in [0, `noise`]."""
    deviation = noise * torch.rand(shape[0], 1, 1, generator=generator)
    return silence + deviation * torch.randn(shape, generator=generator)


def levels(waveforms: torch.Tensor) -> torch.Tensor:
    """Logarithm to base 10 of the mean square of each waveform, from `FLOOR` on."""
    return (waveforms.square().mean(dim=(1, 2)) + FLOOR).log10()


@torch.no_grad()
def describe(
    before: AutoencoderOobleck, after: AutoencoderOobleck, silence: torch.Tensor, music: torch.Tensor, config: Config
) -> None:
    """Logs the level of noisy silence before and after, and by how much music that was left out has changed."""
    latents = before.encode(music).latent_dist.mode()
    noisy = add_noise(silence, latents.shape, config.noise, torch.Generator().manual_seed(config.seed + 1))
    old, new = (10 * levels(vae.decode(noisy).sample).mean().item() for vae in (before, after))
    expected = before.decode(latents).sample
    change = 10 * ((after.decode(latents).sample - expected).square().mean() / expected.square().mean()).log10()
    logger.info("Noisy silence: %.1f dBFS, was %.1f. Music: changed by %.1f dB beside itself.", new, old, change)


if __name__ == "__main__":
    launch(main, Config)
