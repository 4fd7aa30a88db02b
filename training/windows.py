"""The transformer's windows: cut from latents on disk, or from music that is encoded while it trains.

Used by `train_dit.py`. Encoding once is cheaper from the second pass on; encoding as one goes needs no disk, never
sees the same crop twice, and trains on streams.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from stable_longform.data.audio_crops import CropMaker, collate_crops
from stable_longform.data.latents import INFO_FILE, LatentWindows, collate_windows
from stable_longform.data.sources import open_source
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.items import item_generator
from stable_longform.utils.files import weights_sha256

VALIDATION_SEED = 2**30  # far from any training seed
POSTERIOR_SEED = 2**29  # likewise, of the samples of the posteriors
NUM_INSPECTED = 8  # items whose latents are looked at before the first step


@dataclass(frozen=True)
class Windows:
    """What a training needs of its data.

    Args:
        train: items of the train split for `make_loader`, stacked by `collate`.
        collate: see `train`.
        valid: by number, items of the valid split with `latents (C, L)`, `seconds_start`, `seconds_total`, `prompt`.
        with_latents: given a batch and the numbers of its items, gives it with `latents (B, C, L)`.
        inspected: some latents `(N, C, L)`.
    """

    train: torch.utils.data.Dataset
    collate: Callable[[Sequence[dict]], dict]
    valid: Sequence[dict]
    with_latents: Callable[[dict, Sequence[int]], dict]
    inspected: torch.Tensor


def open_windows(
    config, vae: AutoencoderOobleck | None, window_length: int, max_seconds: float, accelerator: Accelerator
) -> Windows:
    """The windows that a configuration names: of its `latents`, or of its `manifest` through the autoencoder.

    Raises:
        ValueError: both or neither are named, the music's autoencoder is missing, or what is named cannot be used.
    """
    if (config.latents is None) == (config.manifest is None):
        raise ValueError("Give either --latents, or --manifest with --autoencoder, to train on.")
    if config.latents is not None:
        return _of_latents(config, window_length, max_seconds)
    if vae is None:
        raise ValueError("--manifest needs --autoencoder, which encodes the music.")
    for name in ("excerpt_probability", "balance_silence"):
        if getattr(config, name):
            raise ValueError(f"{name}={getattr(config, name)} needs --latents.")
    return _of_music(config, vae, window_length, max_seconds, accelerator)


def _of_latents(config, window_length: int, max_seconds: float) -> Windows:
    """Windows of latents on disk."""
    shape, max_bad = (window_length, max_seconds), config.max_bad_fraction
    train = LatentWindows(config.latents, "train", *shape, config.seed, max_bad, config.excerpt_probability)
    valid = LatentWindows(config.latents, "valid", *shape, VALIDATION_SEED, max_bad)
    inspected = torch.stack([train[VALIDATION_SEED + i]["latents"] for i in range(NUM_INSPECTED)])
    return Windows(train, collate_windows, valid, lambda batch, numbers: batch, inspected)


def _of_music(
    config, vae: AutoencoderOobleck, window_length: int, max_seconds: float, accelerator: Accelerator
) -> Windows:
    """Crops of music, which are encoded where the transformer is trained; a short track is completed with silence."""
    vae.requires_grad_(False).eval().to(accelerator.device)
    make_item = CropMaker(
        window_length * vae.hop_length, vae.config.sampling_rate, max_seconds=max_seconds, needs_prompt=True
    )

    source = open_source(config.manifest, max_bad_fraction=config.max_bad_fraction)
    source, valid_source = source.of_split("train"), source.of_split("valid")
    place = accelerator.process_index, accelerator.num_processes
    train = source.items(make_item, config.seed, *place, is_weighted_by_duration=False)
    accelerator.register_for_checkpointing(source)

    def with_latents(batch: dict, numbers: Sequence[int]) -> dict:
        return batch | {"latents": encode(vae, batch["waveform"], numbers)}

    num_valid = max(config.num_validation_windows, config.num_demos, 1)
    valid_items = valid_source.items(make_item, VALIDATION_SEED, is_weighted_by_duration=False).take(num_valid)
    valid = [
        {name: item[name] for name in ("seconds_start", "seconds_total", "prompt")}
        | {"latents": encode(vae, item["waveform"][None], [VALIDATION_SEED + number])[0].cpu()}
        for number, item in enumerate(valid_items)
    ]
    inspected = torch.stack([item["latents"] for item in valid[:NUM_INSPECTED]])
    return Windows(train, collate_crops, valid, with_latents, inspected)


@torch.no_grad()
def encode(vae: AutoencoderOobleck, waveforms: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """Samples of the posteriors of `(B, 2, N)`, each drawn as a function of its item's number; `(B, C, L)`."""
    latents = []
    for waveform, number in zip(waveforms, numbers, strict=True):
        posterior = vae.encode(waveform[None].to(vae.device, vae.dtype)).latent_dist
        latents.append(posterior.sample(generator=item_generator(POSTERIOR_SEED, number))[0])
    return torch.stack(latents).float()


def check_latents(latents: str, vae: AutoencoderOobleck) -> None:
    """Raises a ValueError unless the latents were encoded by this autoencoder's encoder."""
    file = Path(latents) / INFO_FILE
    if not file.is_file():
        raise ValueError(f"{latents} is not a folder of latents: it has no {INFO_FILE}.")
    if json.loads(file.read_text(encoding="utf-8"))["encoder_sha256"] != weights_sha256(vae.encoder):
        raise ValueError(f"{latents} holds latents of another autoencoder than the one given.")
