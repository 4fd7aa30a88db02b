"""Rescales an autoencoder's latents to unit power in each channel, without changing what it reconstructs.

    python training/normalize_latents.py --autoencoder runs/ae/autoencoder --manifest corpus/manifest.jsonl \
        --output_dir runs/ae/normalized

The diffusion process expects latents about as loud as its noise. A long training gets there by its KL loss; after a
short one the scale is arbitrary. `--silence_distance 6` also moves the latents of silence away from those of music,
so that a transformer trained for a short time learns where the music ends. All goes into the last layer of the encoder
and the first of the decoder, so the checkpoint format stays as it is. Not in the paper.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.pretrained import export_model

RIDGE = 0.1  # of the mean variance of a feature, added to each


@dataclass(frozen=True)
class Config:
    """What music is like is measured on `num_crops` crops of the train split, `crop_duration_in_s` seconds each."""

    autoencoder: str
    manifest: str  # any source: see stable_longform.data.sources
    output_dir: str
    num_crops: int = 64
    crop_duration_in_s: float = 10.0
    silence_distance: float = 0.0  # from music's mean to silence, see `separate_silence`; 0: left where it is
    seed: int = 0


def main(config: Config) -> None:
    """Measures, rescales, saves."""
    if config.silence_distance < 0:
        raise ValueError(f"silence_distance must be at least 0, got {config.silence_distance}.")
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    rate = vae.config.sampling_rate
    make_item = CropMaker(round(config.crop_duration_in_s * rate), rate)
    crops = open_source(config.manifest, "train").items(make_item, config.seed)
    features = torch.cat([encode(vae, item["waveform"]) for item in crops.take(config.num_crops)], dim=1)
    divide_latents(vae, project(vae, features).square().mean(dim=1).sqrt())
    if config.silence_distance:
        separate_silence(vae, features, config.silence_distance)
    export_model(vae, config.output_dir)


@torch.no_grad()
def encode(vae: AutoencoderOobleck, waveform: torch.Tensor) -> torch.Tensor:
    """What the encoder's last layer sees of `(audio_channels, num_samples)`: `(features, frames)`, ends left out."""
    inputs = []
    hook = vae.encoder.conv2.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    vae.encoder(waveform[None])
    hook.remove()
    (kernel_size,) = vae.encoder.conv2.kernel_size
    return F.unfold(inputs[0][:, :, None], (1, kernel_size))[0]


@torch.no_grad()
def project(vae: AutoencoderOobleck, features: torch.Tensor) -> torch.Tensor:
    """The posterior's means `(latent_channels, frames)` of features."""
    channels, last = vae.config.decoder_input_channels, vae.encoder.conv2
    return last.normalized_weight()[:channels].flatten(1) @ features + last.bias[:channels, None]


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
    set_weight(first, first.normalized_weight() * factors[:, None])


@torch.no_grad()
def separate_silence(vae: AutoencoderOobleck, features: torch.Tensor, distance: float) -> None:
    """Moves the latents of silence by `-distance` in a direction in which the latents of music say nothing.

    A trained encoder may well put silence at the mean of music. Then a denoiser that sees only noise predicts nearly
    the same for both, and its loss hardly tells it where the music ends. The direction is the one in which the music's
    latents vary least, so that it costs the reconstruction next to nothing, and the decoder is made blind to it. Along
    it the latents become a linear function of the encoder's features (the Fisher discriminant between music and
    silence) with mean 0 over the music and the value `-distance` for silence. Quiet music lies between.

    Args:
        vae: changed in place.
        features: `(features, frames)` of music, from `encode`.
        distance: above 0; the channels' deviation is about 1.

    Raises:
        ValueError: `distance` is not positive, or the encoder has the same features for music and silence.
    """
    if not distance > 0:
        raise ValueError(f"distance must be above 0, got {distance}.")
    channels, last, first = vae.config.decoder_input_channels, vae.encoder.conv2, vae.decoder.conv1
    silence = encode(vae, torch.zeros(vae.config.audio_channels, vae.hop_length * (2 * vae.encoder_context + 3)))
    silence = silence[:, silence.shape[1] // 2]
    mean, covariance = features.mean(dim=1), torch.cov(features)
    if torch.allclose(mean, silence):
        raise ValueError("The encoder has the same features for the music and for silence.")
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(mean))
    discriminant = torch.linalg.solve(covariance + ridge, mean - silence)
    discriminant *= distance / (discriminant @ (mean - silence))
    direction = torch.linalg.eigh(torch.cov(project(vae, features))).eigenvectors[:, 0]

    weight = last.normalized_weight().clone()
    rows = weight[:channels].flatten(1)
    rows += torch.outer(direction, discriminant - direction @ rows)
    weight[:channels] = rows.reshape(weight[:channels].shape)
    set_weight(last, weight)
    last.bias[:channels] -= direction * (direction @ last.bias[:channels] + discriminant @ mean)
    weight = first.normalized_weight()
    set_weight(first, weight - torch.einsum("oik,i,j->ojk", weight, direction, direction))


def set_weight(layer: torch.nn.Module, weight: torch.Tensor) -> None:
    """Gives a weight-normalised layer the weight."""
    layer.weight_v.copy_(weight)
    layer.weight_g.copy_(weight.flatten(1).norm(dim=1).reshape(layer.weight_g.shape))


if __name__ == "__main__":
    launch(main, Config)
