"""Rescales an autoencoder's latents to unit power in each channel, without changing what it reconstructs.

    python training/normalize_latents.py --autoencoder runs/ae/autoencoder --manifest corpus/manifest.jsonl \
        --output_dir runs/ae/normalized

The diffusion process expects latents with about the power of its noise. The KL loss of a long training achieves this,
and that of a short one if its weight is large enough; otherwise the scale is arbitrary. The factors are absorbed by
the last layer of the encoder and the first layer of the decoder, so the checkpoint format does not change. Not in the
paper.
"""

import logging
from dataclasses import dataclass
from typing import Annotated

import torch

from stable_longform.data.audio_crops import CropMaker
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.pretrained import export_model
from stable_longform.training_utils.run_options import MusicOptions
from stable_longform.utils.ranges import Range

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(MusicOptions):
    """The power is measured on `num_crops` crops of the train split, `crop_duration_in_s` seconds each."""

    autoencoder: Annotated[str, "Folder or Hub id of the autoencoder."]
    output_dir: shared.OutputDir
    num_crops: Annotated[
        int,
        Range(1, shared.MAX_COUNT),
        "Crops of the train split used to measure the power.",
    ] = 64
    crop_duration_in_s: Annotated[float, Range(0.2, 1e4), "Length of each crop in seconds."] = 10.0
    seed: shared.Seed = 0


def main(config: Config) -> None:
    """Measures, rescales, saves."""
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    rate = vae.config.sampling_rate
    make_item = CropMaker(round(config.crop_duration_in_s * rate), rate)
    crops = config.open_source().of_split("train").items(make_item, config.seed).take(config.num_crops)
    with torch.no_grad():
        latents = [vae.encode(item["waveform"][None]).latent_dist.mode()[0, :, 1:-1] for item in crops]  # no ends
    power = torch.cat(latents, dim=1).square().mean(dim=1)
    logger.info("Power of the channels: %.3g on average, from %.3g to %.3g.", power.mean(), power.min(), power.max())
    divide_latents(vae, power.sqrt())
    export_model(vae, config.output_dir)


@torch.no_grad()
def divide_latents(vae: AutoencoderOobleck, factors: torch.Tensor) -> None:
    """Divides the posterior's means by factors `(latent_channels,)` and multiplies the decoder's input by them.

    The posterior's standard deviation does not change.

    Raises:
        ValueError: the factors have another shape or are not positive.
    """
    channels = vae.config.decoder_input_channels
    if factors.shape != (channels,) or not (factors > 0).all():
        raise ValueError(f"factors must be {channels} positive numbers, got {factors}.")
    last, first = vae.encoder.conv2, vae.decoder.conv1
    last.weight_g[:channels] /= factors[:, None, None]
    last.bias[:channels] /= factors
    weight = first.normalized_weight() * factors[:, None]
    first.weight_v.copy_(weight)
    first.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))


if __name__ == "__main__":
    launch(main, Config)
