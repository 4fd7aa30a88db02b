"""Rescales an autoencoder's latents to unit power in each channel, without changing what it reconstructs.

    python training/normalize_latents.py --autoencoder runs/ae/autoencoder --manifest corpus/manifest.jsonl \
        --output_dir runs/ae/normalized

The diffusion process expects latents about as loud as its noise. A long training gets there by its KL loss; after a
short one the scale is arbitrary. The factors go into the last layer of the encoder and the first of the decoder, so
the checkpoint format stays as it is. Not in the paper.
"""

from dataclasses import dataclass

import torch

from stable_longform import training_utils as utils
from stable_longform.data.audio_crops import CropMaker, make_crops
from stable_longform.data.sources import open_tracks
from stable_longform.data.streams import first_items
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck


@dataclass(frozen=True)
class Config:
    """The power is measured on `num_crops` random crops of the train split, `crop_duration_in_s` seconds each."""

    autoencoder: str
    manifest: str  # any source: see stable_longform.data.sources
    output_dir: str
    num_crops: int = 64
    crop_duration_in_s: float = 10.0
    seed: int = 0


def main(config: Config) -> None:
    """Measures, rescales, saves."""
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    rate = vae.config.sampling_rate
    make_item = CropMaker(round(config.crop_duration_in_s * rate), rate)
    crops = make_crops(open_tracks(config.manifest, "train"), make_item, config.seed)
    with torch.no_grad():
        latents = [
            vae.encode(item["waveform"][None]).latent_dist.mean[0] for item in first_items(crops, config.num_crops)
        ]
    divide_latents(vae, torch.cat(latents, dim=1).square().mean(dim=1).sqrt())
    utils.export_model(vae, config.output_dir)


@torch.no_grad()
def divide_latents(vae: AutoencoderOobleck, factors: torch.Tensor) -> None:
    """Divides the posterior's means by factors `(latent_channels,)` and multiplies the decoder's input by them.

    The posterior's standard deviation stays as it is.

    Raises:
        ValueError: factors of another shape, or not positive.
    """
    channels = vae.config.decoder_input_channels
    if factors.shape != (channels,) or not (factors > 0).all():
        raise ValueError(f"factors must be {channels} positive numbers, got {factors}.")
    last, first = vae.encoder.conv2, vae.decoder.conv1
    last.weight_g[:channels] /= factors[:, None, None]
    last.bias[:channels] /= factors
    weight = torch._weight_norm(first.weight_v, first.weight_g) * factors[:, None]
    first.weight_v.copy_(weight)
    first.weight_g.copy_(weight.flatten(1).norm(dim=1).reshape(first.weight_g.shape))


if __name__ == "__main__":
    utils.launch(main, Config)
