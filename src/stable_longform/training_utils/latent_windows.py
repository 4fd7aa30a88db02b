"""The transformer's windows: cut from latents on disk, or from music that is encoded during training.

Encoding once is cheaper from the second pass over the data on. Encoding during training needs no disk space, never
uses the same crop twice, and works with streams.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from stable_longform.data.audio_crops import CropMaker, collate_crops
from stable_longform.data.latents import INFO_FILE, LatentWindows, collate_windows, find_file
from stable_longform.data.numbered_items import Items, NumberedItems
from stable_longform.data.sources import Source
from stable_longform.data.streams import StreamItems
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.items import VALIDATION_SEED, item_generator
from stable_longform.training_utils.latent_encoding import has_encoded
from stable_longform.training_utils.noise_and_times import Draw, ItemsWithDraws
from stable_longform.utils.text_files import read_json

POSTERIOR_SEED = 2**29  # for samples from the posteriors; far from any training seed
NUM_INSPECTED = 8  # items whose latents are checked before the first step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowSource:
    """The data of a training.

    Args:
        train: items of the train split for `make_loader`.
        collate: stacks items of `train` into a batch.
        valid: items of the valid split by number, with `latents (C, L)`, `seconds_start`, `seconds_total`, `prompt`.
        complete: adds `latents (B, C, L)`, `noise`, `timestep` and `is_dropped` to a batch of `make_loader`, where it
            does not have them.
        inspect: reads some latents `(N, C, L)`, for `check_scale`.
    """

    train: NumberedItems | StreamItems
    collate: Callable[[Sequence[dict]], dict]
    valid: Items
    complete: Callable[[dict], dict]
    inspect: Callable[[], torch.Tensor]


def open_latent_windows(
    latents: str | os.PathLike,
    window_length: int,
    max_seconds: float,
    seed: int,
    max_bad_fraction: float,
    draw: Draw,
    excerpt_probability: float = 0.0,
    has_valid: bool = True,
) -> WindowSource:
    """Windows from a folder of latents; the loader's workers draw what belongs to them.

    Args:
        draw: see `ItemsWithDraws`.
        has_valid: whether the valid split is needed; otherwise `valid` is empty. The other arguments are those of
            `LatentWindows`.
    """
    train = LatentWindows(latents, "train", window_length, max_seconds, seed, max_bad_fraction, excerpt_probability)
    valid: Items = []
    if has_valid:
        valid = LatentWindows(latents, "valid", window_length, max_seconds, VALIDATION_SEED, max_bad_fraction)

    def inspect() -> torch.Tensor:
        return torch.stack([train[VALIDATION_SEED + i]["latents"] for i in range(NUM_INSPECTED)])

    return WindowSource(ItemsWithDraws(train, draw), collate_windows, valid, lambda batch: batch, inspect)


def open_music_windows(
    source: Source,
    vae: AutoencoderOobleck,
    window_length: int,
    max_seconds: float,
    seed: int,
    draw: Draw,
    num_valid: int,
    accelerator: Accelerator,
) -> WindowSource:
    """Crops of music, encoded in the process that trains on them; short tracks are padded with silence.

    Args:
        source: of the music, all splits.
        vae: the autoencoder; it is moved to the accelerator's device.
        window_length: frames of an item.
        max_seconds: largest `seconds_start` and `seconds_total`.
        seed: of the whole sequence.
        draw: draws noise, times and dropped conditions for a shape `(B, C, L)` and B item numbers.
        num_valid: number of items of the valid split, which are encoded immediately; at least 1.
        accelerator: of the run; its checkpoints hold the position in the source.
    """
    vae.requires_grad_(False).eval().to(accelerator.device)
    make_item = CropMaker(
        window_length * vae.hop_length, vae.config.sampling_rate, max_seconds=max_seconds, needs_prompt=True
    )

    train_source, valid_source = source.of_split("train"), source.of_split("valid")
    place = accelerator.process_index, accelerator.num_processes
    train = train_source.items(make_item, seed, *place, is_weighted_by_duration=False)
    accelerator.register_for_checkpointing(train_source)

    def complete(batch: dict) -> dict:
        latents = sample_latents(vae, batch["waveform"], batch["item_numbers"])
        return batch | {"latents": latents} | draw(latents.shape, batch["item_numbers"])

    valid_items = valid_source.items(make_item, VALIDATION_SEED, is_weighted_by_duration=False).take(num_valid)
    valid = [
        {name: item[name] for name in ("seconds_start", "seconds_total", "prompt")}
        | {"latents": sample_latents(vae, item["waveform"][None], [VALIDATION_SEED + number])[0].cpu()}
        for number, item in enumerate(valid_items)
    ]
    inspected = torch.stack([item["latents"] for item in valid[:NUM_INSPECTED]])
    return WindowSource(train, collate_crops, valid, complete, lambda: inspected)


@torch.no_grad()
def sample_latents(vae: AutoencoderOobleck, waveforms: torch.Tensor, item_numbers: Sequence[int]) -> torch.Tensor:
    """Latents `(B, C, L)` of `(B, 2, N)`: samples from the posteriors, each a function of its item's number."""
    latents = []
    for waveform, number in zip(waveforms, item_numbers, strict=True):
        posterior = vae.encode(waveform[None].to(vae.device, vae.dtype)).latent_dist
        latents.append(posterior.sample(generator=item_generator(POSTERIOR_SEED, number))[0])
    return torch.stack(latents).float()


def check_scale(latents: torch.Tensor, accelerator: Accelerator) -> None:
    """Logs the mean and the standard deviation of some latents. The deviation should be similar to that of noise, 1.

    Raises:
        ValueError: all values are the same.
    """
    mean, std = float(latents.mean()), float(latents.std())
    if not std > 0:  # true for NaN too
        raise ValueError(f"The latents have deviation {std}: is the autoencoder trained?")
    if accelerator.is_main_process:
        far = "" if 1 / 3 < std < 3 else "; far from the noise's 1: see training/normalize_latents.py"
        logger.info("Latents: mean %.3f, deviation %.3f%s.", mean, std, far)


def check_encoder(latents: str | os.PathLike, vae: AutoencoderOobleck) -> None:
    """Raises a ValueError unless the latents were encoded by this autoencoder's encoder."""
    if not has_encoded(vae, read_json(find_file(latents, INFO_FILE))):
        raise ValueError(f"{latents} holds latents of another autoencoder than the one given.")
