"""Encodes the tracks of a manifest once, for the training of the transformer. Paper: §3.

    accelerate launch training/encode_latents.py --manifest corpus/manifest.jsonl --autoencoder runs/ae/autoencoder \
        --output_dir latents

Each process encodes its share of the tracks; tracks already encoded are kept, so run the same command again after a
stop. `stable_longform.data.latents` describes what is written.
"""

import hashlib
import json
import logging
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from safetensors.torch import save_file
from tqdm import tqdm

from stable_longform import training_utils as utils
from stable_longform.data.latents import INDEX_FILE, INFO_FILE, SILENCE_FILE
from stable_longform.data.manifest import SPLITS, Track, read_manifest
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.utils.audio import atomic_path, read_audio, to_stereo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """`max_tracks` limits how many tracks of each split are encoded."""

    manifest: str
    autoencoder: str
    output_dir: str
    splits: tuple = ("train", "valid")
    max_tracks: int | None = None
    dtype: str = "float32"


def main(config: Config) -> None:
    """Encodes this process's tracks, then writes the index."""
    unknown = [split for split in config.splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"splits must be among {', '.join(SPLITS)}, got {', '.join(unknown)}.")
    dtype = utils.float_dtype(config.dtype)
    state = PartialState(cpu=not torch.accelerator.is_available())
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder, torch_dtype=dtype)
    vae = vae.to(state.device).eval()
    _check_autoencoder(vae, output_dir / INFO_FILE, state)
    tracks = [track for split in config.splits for track in choose_tracks(config, split)]
    if state.is_main_process:
        silence = encode(vae, torch.zeros(2, vae.hop_length * (2 * vae.encoder_context + 1)))
        middle = {name: value[:, vae.encoder_context, None] for name, value in silence.items()}
        _save(middle, output_dir / SILENCE_FILE)
    for track in tqdm(tracks[state.process_index :: state.num_processes], disable=not state.is_main_process):
        file = output_dir / _file_name(track)
        if not file.exists():
            waveform, _ = read_audio(track.path, sampling_rate=vae.config.sampling_rate)
            tail = vae.encoder_context * vae.hop_length  # silence, so that the end of the music is encoded as such
            _save(encode(vae, F.pad(to_stereo(waveform), (0, tail))), file)
    state.wait_for_everyone()
    if state.is_main_process:
        rows = [_index_row(track, vae) for track in tracks]
        utils.write_text(output_dir / INDEX_FILE, "".join(json.dumps(row) + "\n" for row in rows))
        logger.info("%d tracks encoded in %s", len(rows), output_dir)


def choose_tracks(config: Config, split: str) -> list[Track]:
    """The tracks of a split, or `max_tracks` of them drawn at random, the same at every run."""
    tracks = read_manifest(config.manifest, split)
    if config.max_tracks is None or config.max_tracks >= len(tracks):
        return tracks
    return random.Random(0).sample(tracks, config.max_tracks)


@torch.no_grad()
def encode(vae: AutoencoderOobleck, waveform: torch.Tensor) -> dict[str, torch.Tensor]:
    """Posterior `mean` and `std` `(channels, frames)` in float16 of `(2, num_samples)`, in chunks."""
    posterior = vae.encode(waveform[None].to(vae.device, vae.dtype)).latent_dist
    return {"mean": posterior.mean[0].half().cpu(), "std": posterior.std[0].half().cpu()}


def _index_row(track: Track, vae: AutoencoderOobleck) -> dict:
    """What `LatentTrack` needs to know about a track."""
    return {
        "file": _file_name(track),
        "latent_length": math.ceil(track.duration_in_s * vae.latent_rate),
        "duration_in_s": track.duration_in_s,
        "split": track.split,
        "weight": track.weight,
        "metadata": track.metadata,
    }


def _file_name(track: Track) -> str:
    """A name that tells tracks of the same title apart."""
    return f"{track.path.stem}-{hashlib.sha256(str(track.path).encode()).hexdigest()[:8]}.safetensors"


def _check_autoencoder(vae: AutoencoderOobleck, file: Path, state: PartialState) -> None:
    """Writes which autoencoder makes the latents, or checks that it is the one that made those already there."""
    digest = utils.weights_digest(vae)
    info = {"latent_rate": vae.latent_rate, "hop_length": vae.hop_length, "weights_sha256": digest}
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != info:
        raise ValueError(f"{file.parent} holds latents of another autoencoder; use another output_dir.")
    state.wait_for_everyone()
    if state.is_main_process:
        utils.write_text(file, json.dumps(info))


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Writes a safetensors file atomically."""
    with atomic_path(file) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


if __name__ == "__main__":
    utils.launch(main, Config)
