"""Encodes whole tracks to the shards of a folder of latents. `stable_longform.data.latents` defines the format."""

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from stable_longform.data.bad_tracks import BadTracks
from stable_longform.data.latents import write_shard
from stable_longform.data.tracks import Track, read_track
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.utils.files import weights_sha256


def encode_tracks(
    tracks: Iterable[Track],
    vae: AutoencoderOobleck,
    output_dir: Path,
    bad_tracks: BadTracks,
    tracks_per_shard: int,
    minutes_per_shard: float,
) -> None:
    """Encodes tracks into shards; tracks that cannot be read are skipped and counted.

    A shard is written when it has `tracks_per_shard` tracks or has taken `minutes_per_shard`, and at the end of the
    tracks, even after an error.
    """
    rows, posteriors, started = [], [], time.monotonic()
    try:
        for track, waveform in bad_tracks.usable(
            tracks, lambda track: read_track(track, 0.0, None, vae.config.sampling_rate)
        ):
            tail = vae.encoder_context * vae.hop_length  # silence, so that the end of the music is encoded as such
            posteriors.append(encode_posterior(vae, F.pad(waveform, (0, tail))))
            latent_length = math.ceil(waveform.shape[1] / vae.hop_length)
            rows.append({"key": track_key(track), "latent_length": latent_length} | describe_track(track))
            if len(rows) >= tracks_per_shard or time.monotonic() - started > 60 * minutes_per_shard:
                write_shard(output_dir, rows, posteriors)
                rows, posteriors, started = [], [], time.monotonic()
    finally:  # also when the run is stopped
        if rows:
            write_shard(output_dir, rows, posteriors)


@torch.no_grad()
def encode_posterior(vae: AutoencoderOobleck, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    """Posterior `mean` and `std` `(channels, frames)` in float16 of `(2, num_samples)`, in chunks."""
    posterior = vae.encode(waveform[None].to(vae.device, vae.dtype)).latent_dist
    return {"mean": posterior.mean[0].half().cpu(), "std": posterior.std[0].half().cpu()}


def encode_silence(vae: AutoencoderOobleck) -> dict[str, torch.Tensor]:
    """Posterior `mean` and `std` `(channels, 1)` of one frame of silence, far from the ends."""
    silence = encode_posterior(vae, torch.zeros(2, vae.hop_length * (2 * vae.encoder_context + 1)))
    return {name: value[:, vae.encoder_context, None].contiguous() for name, value in silence.items()}


def describe_encoder(vae: AutoencoderOobleck) -> dict:
    """The content of `latents.json`."""
    return {
        "latent_rate": vae.latent_rate,
        "hop_length": vae.hop_length,
        "encoder_sha256": weights_sha256(vae.encoder),
    }


def has_encoded(vae: AutoencoderOobleck, description: Mapping) -> bool:
    """Whether the latents with this `latents.json` were encoded by this autoencoder's encoder."""
    return description.get("encoder_sha256") == weights_sha256(vae.encoder)


def track_key(track: Track) -> str:
    """A name that distinguishes tracks with the same title."""
    return hashlib.sha256(str(track.path).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def describe_track(track: Track) -> dict:
    """The information about a track for the index of the latents."""
    names = ("duration_in_s", "split", "weight", "metadata")
    return {name: getattr(track, name) for name in names}
