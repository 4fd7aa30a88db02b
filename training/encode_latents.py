"""Encodes the tracks of a source of music once, for the training of the transformer. Paper: §3.

    accelerate launch training/encode_latents.py --manifest corpus/manifest.jsonl --autoencoder runs/ae/autoencoder \
        --output_dir latents

Each process encodes its share of the tracks; tracks already encoded are kept, so run the same command again after a
stop, with any number of processes. `stable_longform.data.latents` describes what is written.
"""

import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from safetensors.torch import save_file
from tqdm import tqdm

from stable_longform.data.bad_tracks import BadTracks
from stable_longform.data.latents import INDEX_FILE, INFO_FILE, SILENCE_FILE, read_shards, write_shard
from stable_longform.data.sources import Source, open_source
from stable_longform.data.tracks import SPLITS, Track, read_track
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.loop import TimeLimit
from stable_longform.training_utils.pretrained import float_dtype
from stable_longform.utils.files import atomic_path, weights_sha256, write_json, write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """`max_tracks` limits how many tracks of each split are encoded. A shard is written when either limit is met."""

    manifest: str  # any source: see stable_longform.data.sources
    autoencoder: str
    output_dir: str
    splits: tuple = ("valid", "train")  # in this order
    max_tracks: int | None = None
    dtype: str = "float32"
    tracks_per_shard: int = 64
    minutes_per_shard: float = 10.0  # what a stop can cost
    max_minutes: float | None = None  # then the script stops after the track it is at, with an index of what is done
    max_bad_fraction: float = 0.01


def main(config: Config) -> None:
    """Encodes this process's tracks, then writes the index."""
    time_limit = TimeLimit(config.max_minutes)
    unknown = [split for split in config.splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"splits must be among {', '.join(SPLITS)}, got {', '.join(unknown)}.")
    if config.tracks_per_shard < 1:
        raise ValueError(f"tracks_per_shard must be at least 1, got {config.tracks_per_shard}.")
    dtype = float_dtype(config.dtype)
    state = PartialState(cpu=not torch.accelerator.is_available())
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    _check_autoencoder(vae, output_dir / INFO_FILE, state)
    vae = vae.to(state.device, dtype).eval()
    if state.is_main_process:
        silence = encode(vae, torch.zeros(2, vae.hop_length * (2 * vae.encoder_context + 1)))
        middle = {name: value[:, vae.encoder_context, None].contiguous() for name, value in silence.items()}
        with atomic_path(output_dir / SILENCE_FILE) as temporary:
            save_file(middle, temporary)
    source = open_source(config.manifest, max_bad_fraction=config.max_bad_fraction)
    parts = [source.of_split(split) for split in config.splits]
    done = read_shards(output_dir)
    state.wait_for_everyone()  # all have the same list before the first adds to the folder
    place = state.process_index, state.num_processes, config.max_tracks
    shares = [part.share(*place, lambda track: track_key(track) not in done) for part in parts]
    total = None if source.tracks is None else sum(map(len, shares))
    tracks = itertools.takewhile(lambda _: not time_limit.is_reached(), itertools.chain.from_iterable(shares))
    progress = tqdm(tracks, total=total, disable=not state.is_main_process, unit="track")
    encode_tracks(progress, vae, output_dir, config, source.bad_tracks)
    state.wait_for_everyone()
    if state.is_main_process:
        rows = _index_rows(done | read_shards(output_dir), parts)
        write_text(output_dir / INDEX_FILE, "".join(json.dumps(row) + "\n" for row in rows))
        logger.info("%d tracks encoded in %s", len(rows), output_dir)


def encode_tracks(
    tracks: Iterable[Track], vae: AutoencoderOobleck, output_dir: Path, config: Config, bad_tracks: BadTracks
) -> None:
    """Encodes tracks into shards; those that cannot be read are left out and counted."""
    rows, posteriors, started = [], [], time.monotonic()
    try:
        for track, waveform in bad_tracks.usable(
            tracks, lambda track: read_track(track, 0.0, None, vae.config.sampling_rate)
        ):
            tail = vae.encoder_context * vae.hop_length  # silence, so that the end of the music is encoded as such
            posteriors.append(encode(vae, F.pad(waveform, (0, tail))))
            latent_length = math.ceil(waveform.shape[1] / vae.hop_length)
            rows.append({"key": track_key(track), "latent_length": latent_length} | _describe(track))
            if len(rows) >= config.tracks_per_shard or time.monotonic() - started > 60 * config.minutes_per_shard:
                write_shard(output_dir, rows, posteriors)
                rows, posteriors, started = [], [], time.monotonic()
    finally:  # also when the run is stopped
        if rows:
            write_shard(output_dir, rows, posteriors)


@torch.no_grad()
def encode(vae: AutoencoderOobleck, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    """Posterior `mean` and `std` `(channels, frames)` in float16 of `(2, num_samples)`, in chunks."""
    posterior = vae.encode(waveform[None].to(vae.device, vae.dtype)).latent_dist
    return {"mean": posterior.mean[0].half().cpu(), "std": posterior.std[0].half().cpu()}


def track_key(track: Track) -> str:
    """A name that tells tracks of the same title apart."""
    return hashlib.sha256(str(track.path).encode()).hexdigest()[:16]


def _describe(track: Track) -> dict:
    """What the index takes over from a track."""
    names = ("duration_in_s", "split", "weight", "metadata")
    return {name: getattr(track, name) for name in names}


def _index_rows(done: dict[str, dict], parts: Sequence[Source]) -> list[dict]:
    """The rows of the index: of lists, their tracks with what they say now; of a stream, all that is encoded."""
    if parts[0].tracks is None:
        return list(done.values())
    tracks = [track for part in parts for track in part.tracks]
    return [done[track_key(track)] | _describe(track) for track in tracks if track_key(track) in done]


def _check_autoencoder(vae: AutoencoderOobleck, file: Path, state: PartialState) -> None:
    """Writes which autoencoder makes the latents, or checks that it is the one that made those already there."""
    info = {"latent_rate": vae.latent_rate, "hop_length": vae.hop_length}
    info |= {"encoder_sha256": weights_sha256(vae.encoder)}
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != info:
        raise ValueError(f"{file.parent} holds latents of another autoencoder; use another output_dir.")
    state.wait_for_everyone()
    if state.is_main_process:
        write_json(file, info)


if __name__ == "__main__":
    launch(main, Config)
