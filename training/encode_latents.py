"""Encodes the tracks of a source of music once, for the training of the transformer. Paper: §3.

    accelerate launch training/encode_latents.py --manifest corpus/manifest.jsonl --autoencoder runs/ae/autoencoder \
        --output_dir latents

Each process encodes its share of the tracks. Tracks that are already encoded are kept, so after an interruption run
the same command again, with any number of processes. `stable_longform.data.latents` describes the files.
"""

import datetime
import itertools
import json
import logging
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from tqdm import tqdm

from stable_longform.data.latents import INDEX_FILE, INFO_FILE, SILENCE_FILE, read_shards
from stable_longform.data.sources import Source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.latent_encoding import (
    describe_encoder,
    describe_track,
    encode_silence,
    encode_tracks,
    track_key,
)
from stable_longform.training_utils.loop import StopRequest
from stable_longform.training_utils.options import NumEntries
from stable_longform.training_utils.run_options import MusicOptions
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.files import atomic_path, write_json, write_text
from stable_longform.utils.ranges import Range
from stable_longform.utils.text_files import read_json

LONGEST_WAIT = datetime.timedelta(days=7)  # how long processes wait for the last one

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(MusicOptions):
    """`max_tracks` limits how many tracks of each split are encoded. A shard is written when either limit is met."""

    autoencoder: Annotated[str, "Folder or Hub id of the autoencoder."]
    output_dir: shared.OutputDir
    splits: Annotated[
        tuple[Literal["train", "valid", "test", "extra"], ...],
        NumEntries(1),
        "Splits to encode, in this order.",
    ] = ("valid", "train")
    max_tracks: Annotated[int | None, Range(1, shared.MAX_TRAINING_STEPS), "Number of tracks of each split."] = None
    dtype: Annotated[shared.Dtype, "Precision of the autoencoder during encoding."] = "float32"
    tracks_per_shard: Annotated[int, Range(1, shared.MAX_COUNT), "Tracks after which a shard is written."] = 64
    minutes_per_shard: Annotated[
        float,
        Range(0, 1e6),
        "Minutes after which a shard is written; a stop loses at most this time.",
    ] = 10.0
    max_minutes: Annotated[
        shared.MaxMinutes | None,
        "Time limit in minutes; the script stops after the current track and writes the index of finished ones.",
    ] = None


def main(config: Config) -> int:
    """Encodes this process's tracks, then writes the index; returns the exit code."""
    stop = StopRequest(config.max_minutes)
    dtype = DTYPES[config.dtype]
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)
    vae = AutoencoderOobleck.from_pretrained(config.autoencoder)
    source = config.open_source()
    parts = [source.of_split(split) for split in config.splits]
    output_dir = Path(config.output_dir)
    _check_autoencoder(vae, output_dir / INFO_FILE, state)
    vae = vae.to(state.device, dtype).eval()
    if state.is_main_process:
        with atomic_path(output_dir / SILENCE_FILE) as temporary:
            save_file(encode_silence(vae), temporary)
    done = read_shards(output_dir)
    state.wait_for_everyone()  # all processes read the list before the first one writes to the folder
    place = state.process_index, state.num_processes, config.max_tracks
    shares = [part.share(*place, lambda track: track_key(track) not in done) for part in parts]
    total = sum(map(operator.length_hint, shares)) or None  # unknown for a stream
    tracks = itertools.takewhile(
        lambda _: not (stop.is_time_over() or stop.is_signalled()), itertools.chain.from_iterable(shares)
    )
    progress = tqdm(tracks, total=total, disable=not state.is_main_process, unit="track")
    encode_tracks(progress, vae, output_dir, source.bad_tracks, config.tracks_per_shard, config.minutes_per_shard)
    state.wait_for_everyone()
    if state.is_main_process:
        rows = _index_rows(done | read_shards(output_dir), parts)
        write_text(output_dir / INDEX_FILE, "".join(json.dumps(row) + "\n" for row in rows))
        logger.info("%d tracks encoded in %s", len(rows), output_dir)
    return stop.exit_code


def _index_rows(done: dict[str, dict], parts: Sequence[Source]) -> list[dict]:
    """The rows of the index: the known tracks with current metadata; for a stream, all encoded tracks."""
    tracks = [track for part in parts for track in part.tracks]
    if not tracks:
        return list(done.values())
    return [done[track_key(track)] | describe_track(track) for track in tracks if track_key(track) in done]


def _check_autoencoder(vae: AutoencoderOobleck, file: Path, state: PartialState) -> None:
    """Records which autoencoder encodes the latents, or checks that existing ones are from the same autoencoder."""
    info = describe_encoder(vae)
    if file.exists() and read_json(file) != info:
        raise ValueError(f"{file.parent} holds latents of another autoencoder; use another output_dir.")
    state.wait_for_everyone()
    file.parent.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        write_json(file, info)


if __name__ == "__main__":
    launch(main, Config)
