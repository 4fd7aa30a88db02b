"""Measures a checkpoint against held-out real music: the tables of its model card.

    stable-longform evaluate prepare      # once: downloads the evaluators' weights
    python benchmarks/embedded_checkpoint.py --manifest corpus/manifest.jsonl --checkpoint DIR

The real music is the manifest's test split, which no training has seen, in two halves by track. One half is the
reference. It is compared with the other half (the floor), its reconstructions by the autoencoder (the ceiling of the
system), its latents in random order, real music of other genres, generations of each duration from the prompts of the
reference's tracks, an untrained transformer of the same size, white noise, and with --peer a folder of another
system's music. Every row has the same number of 3 s windows, spread evenly over its recordings. Needs the extra
`eval`.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from stable_longform import TINY_CHECKPOINT, AutoencoderOobleck, DiTTransformer1D, LongFormMusicPipeline
from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import (
    PEAK_IN_DB,
    Audio,
    ReadingSettings,
    list_audio,
    load_audio,
    normalize_peak,
)
from stable_longform.evaluation.features import embed_audio
from stable_longform.evaluation.scores import Features, divergence_score, frechet_score, kernel_score
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.embedders.musicnn import MusicnnEmbedder
from stable_longform.metrics.reconstruction import mel_distance, si_sdr, stft_distance
from stable_longform.utils.audio import read_audio, resample, to_stereo
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main

CROP_IN_S, WINDOWS_PER_CROP = 6.05, 2
UNTRAINED_STEPS = 4  # its prediction hardly depends on the time
BAND_EDGES_IN_HZ = (0, 60, 120, 250, 500, 1000, 2000, 4000, 8000, 16000, 22050)
END_SHARES = (0.04, 0.1, 0.2, 0.4)  # durations whose end is measured, as shares of the window
TAGGER = "musicnn_msd"  # the tags of the free corpus, and thus its prompts, are from the other tagger

Item = tuple[str, torch.Tensor]  # name, and `(2, num_samples)`


def main() -> None:
    """Prints the tables."""
    arguments = parse_arguments()
    start = time.perf_counter()
    torch.manual_seed(arguments.seed)
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    embedders = [MusicnnEmbedder("msd", arguments.device), Mel44Embedder()]
    reference_tracks, other_tracks = split_tracks(arguments)
    rate, num_crops = pipe.sampling_rate, arguments.num_windows // WINDOWS_PER_CROP
    reference_items = real_items(reference_tracks, num_crops, rate)
    real = real_items(other_tracks, num_crops, rate)
    reconstructions = [(name, reconstruct(pipe.vae, audio)) for name, audio in real]
    print_reconstruction(real, reconstructions, rate)
    table = Table(embedders, rate, arguments.num_windows, reference_items)
    table.add("real, the other half of the tracks", real)
    table.add("real, through the autoencoder", reconstructions)
    table.add("real, of other genres", real_items(genre_tracks(reference_tracks, arguments), num_crops, rate))
    for duration, num_items in zip(arguments.durations, arguments.num_items, strict=True):
        duration = min(duration, pipe.max_duration_in_s)
        table.add(f"generated, {duration:.0f} s", generate(pipe, reference_tracks[:num_items], duration, arguments))
    if arguments.peer:
        table.add(f"of {arguments.peer.name}", folder_items(arguments.peer, rate))
    untrained = DiTTransformer1D.from_config(pipe.transformer.config).to(arguments.device).eval()
    trained, pipe.transformer, steps = pipe.transformer, untrained, arguments.num_inference_steps
    arguments.num_inference_steps = min(steps, UNTRAINED_STEPS)
    table.add("untrained transformer", generate(pipe, reference_tracks[: arguments.num_items[0]], 30.0, arguments))
    pipe.transformer, arguments.num_inference_steps = trained, steps
    table.add("real latents in random order", shuffle_latents(pipe.vae, real, arguments.seed))
    table.add("white noise", [(name, 0.1 * torch.randn_like(audio)) for name, audio in real])
    print_adherence(pipe, reference_tracks, arguments)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("manifest", "output")}
    print(f"\n{json.dumps(settings)}; {torch.get_num_threads()} threads; {time.perf_counter() - start:.0f} s in all.")
    if arguments.output:
        arguments.output.write_text(json.dumps({"settings": settings, "rows": table.rows}, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--manifest", required=True, help="any source of music")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_number(
        "--durations",
        SECONDS,
        kind=float,
        nargs="+",
        default=[30.0, 120.0, 285.0],
        help="durations of the generations in seconds",
    )
    parser.add_number(
        "--num_items", Range(1, 10**4), nargs="+", default=[8, 2, 2], help="number of generations for each duration"
    )
    parser.add_argument(
        "--peer", type=Path, help="a folder of another system's music, for example from `evaluate prepare --peer`"
    )
    parser.add_number(
        "--num_windows", Range(2, 10**6), default=80, help="3 s windows in each row; 360 for reliable numbers"
    )
    parser.add_number("--num_inference_steps", STEPS, default=16, help="sampling steps")
    parser.add_number(
        "--guidance_scale", Range(-100, 100), kind=float, default=4.0, help="scale of classifier-free guidance"
    )
    parser.add_number(
        "--guidance_rescale", Range(0, 1), kind=float, default=0.0, help="rescaling of the guided prediction"
    )
    parser.add_number("--seed", SEEDS, default=0, help="random seed")
    parser.add_device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="file for the rows as JSON")
    arguments = parser.parse_args()
    if len(arguments.durations) != len(arguments.num_items):
        parser.error("--durations and --num_items must have the same number of values")
    return arguments


def split_tracks(arguments: argparse.Namespace) -> tuple[list[Track], list[Track]]:
    """Two halves of the test tracks, in random order."""
    tracks = [track for track in read_manifest(arguments.manifest, "test") if available_fields(track.metadata)]
    random.Random(arguments.seed).shuffle(tracks)
    return tracks[::2], tracks[1::2]


def genre_tracks(reference: Sequence[Track], arguments: argparse.Namespace) -> list[Track]:
    """Tracks of the train split without any of the more frequent half of the reference's genres."""
    counts: dict[str, int] = {}
    for track in reference:
        for genre in track.metadata.get("genre", []):
            counts[genre] = counts.get(genre, 0) + 1
    common = set(sorted(counts, key=counts.get, reverse=True)[: (len(counts) + 1) // 2])
    tracks = read_manifest(arguments.manifest, "train")
    tracks = [track for track in tracks if (genres := set(track.metadata.get("genre", []))) and not genres & common]
    random.Random(arguments.seed).shuffle(tracks)
    return tracks


def real_items(tracks: Sequence[Track], num_crops: int, sampling_rate: int) -> list[Item]:
    """Crops spread over the tracks, one item for each track: its crops, concatenated."""
    tracks = tracks[:num_crops]
    items = []
    for index, track in enumerate(tracks):
        count = len(range(index, num_crops, len(tracks)))
        crops = []
        for number in range(count):
            start_in_s = (number + 0.5) / count * max(track.duration_in_s - CROP_IN_S - 0.1, 0)
            waveform, rate = read_audio(track.path, start_in_s, CROP_IN_S + 0.1)
            waveform = to_stereo(resample(waveform, rate, sampling_rate))
            crops.append(waveform[:, : round(CROP_IN_S * sampling_rate)])
        items.append((track.path.as_posix(), torch.cat(crops, dim=1)))
    return items


@torch.no_grad()
def reconstruct(vae: AutoencoderOobleck, audio: torch.Tensor) -> torch.Tensor:
    """Encodes and decodes `(2, num_samples)`."""
    latents = vae.encode(audio[None].to(vae.device)).latent_dist.mode()
    return vae.decode(latents).sample[0, :, : audio.shape[1]].cpu()


@torch.no_grad()
def shuffle_latents(vae: AutoencoderOobleck, real: Sequence[Item], seed: int) -> Iterator[Item]:
    """The latents of each recording with their frames in random order, decoded."""
    generator = torch.Generator().manual_seed(seed)
    for name, audio in real:
        latents = vae.encode(audio[None].to(vae.device)).latent_dist.mode()
        latents = latents[..., torch.randperm(latents.shape[-1], generator=generator)]
        yield name, vae.decode(latents).sample[0, :, : audio.shape[1]].cpu()


def generate(
    pipe: LongFormMusicPipeline, tracks: Sequence[Track], duration: float, arguments: argparse.Namespace
) -> Iterator[Item]:
    """One generation for each track, from a prompt made of its metadata."""
    for number, track in enumerate(tracks):
        audio = pipe(
            build_prompt(track.metadata, random.Random(arguments.seed * 1000 + number)),
            duration=duration,
            num_inference_steps=arguments.num_inference_steps,
            guidance_scale=arguments.guidance_scale,
            guidance_rescale=arguments.guidance_rescale,
            generator=torch.Generator().manual_seed(arguments.seed * 1000 + number),
        ).audios[0]
        yield track.path.as_posix(), audio.cpu()


def folder_items(folder: Path, sampling_rate: int) -> Iterator[Item]:
    """The recordings of a folder."""
    for name, path in list_audio(folder).items():
        audio = load_audio(path, ReadingSettings())
        yield name, resample(to_stereo(audio.waveform), audio.sampling_rate, sampling_rate)


class Table:
    """Rows of scores against one reference, printed as they come.

    Args:
        embedders: the first one also predicts the tags.
        sampling_rate: Hz, of all audio.
        num_windows: windows of each row.
        reference: the real music.
    """

    def __init__(self, embedders: Sequence, sampling_rate: int, num_windows: int, reference: Sequence[Item]):
        self.embedders, self.sampling_rate, self.num_windows, self.rows = embedders, sampling_rate, num_windows, []
        self.reference, self.profiles, level, _ = self._measure(reference)
        self.reference_profile = self.profiles.mean(axis=0)
        distances = " | ".join(f"FD {embedder.name} | KAD" for embedder in embedders)
        print(f"| music | {distances} | tag KL, own track | other tracks | RMS (dBFS) | peak | spectrum (dB) | s |")
        print("|---" * (2 * len(embedders) + 7) + "|")
        print(f"| reference: real, {len(self.reference)} tracks | " + "0 | 0 | " * len(embedders)
              + f"| | {level:.1f} | | {np.abs(self.profiles - self.reference_profile).mean():.1f} | |")  # fmt: skip

    def add(self, name: str, items: Sequence[Item] | Iterator[Item]) -> None:
        """Measures one row and prints it."""
        start = time.perf_counter()
        features, profiles, level, peak = self._measure(items)
        row = {"music": name, "num_items": len(features)}
        for embedder in self.embedders:
            for score in (frechet_score, kernel_score):
                found = score(features, self.reference, embedder.name, self.num_windows)
                row[found.metric] = found.value
        shared = [track for track in features if track in self.reference]
        own = [self._divergence(features, {track: track for track in shared})] if shared else []
        others = [self._divergence(features, self._pairs(features, shift)) for shift in range(1, len(self.reference))]
        row |= {"tag_kl_own": own[0] if own else None, "tag_kl_other": float(np.mean(others))}
        row |= {"rms_in_db": level, "peak": peak}
        row["spectrum_in_db"] = float(np.abs(profiles - self.reference_profile).mean())
        row["seconds"] = time.perf_counter() - start
        self.rows.append(row)
        names = [f"{metric}_{embedder.name}" for embedder in self.embedders for metric in ("fd", "kad")]
        distances = " | ".join(f"{row[name]:.1f}" for name in names)
        own_text = f"{own[0]:.2f}" if own else "–"
        print(f"| {name} | {distances} | {own_text} | {row['tag_kl_other']:.2f} | {level:.1f} | {peak:.2f} | "
              f"{row['spectrum_in_db']:.1f} | {row['seconds']:.0f} |", flush=True)  # fmt: skip

    def _pairs(self, features: Features, shift: int) -> dict[str, str]:
        """For each item a track of the reference that is not its own."""
        names = list(self.reference)
        pairs = {}
        for index, name in enumerate(features):
            position = names.index(name) if name in self.reference else index - 1
            pairs[name] = names[(position + shift) % len(names)]
        return pairs

    def _divergence(self, features: Features, pairs: dict[str, str]) -> float:
        """Mean divergence of the tags of pairs."""
        return divergence_score(features, self.reference, TAGGER, pairs).value

    def _measure(self, items: Sequence[Item] | Iterator[Item]) -> tuple[Features, np.ndarray, float, float]:
        """Features, band levels, mean power in dBFS and highest peak of the items."""
        features, profiles, powers, peak, crops = {}, [], [], 0.0, []
        for name, audio in items:
            if not audio.isfinite().all():
                raise ValueError(f"{name}: samples that are not finite.")
            peak = max(peak, float(audio.abs().max()))
            powers.append(float(audio.square().mean()))
            profiles.append(band_levels(audio, self.sampling_rate))
            crops.append((name, audio))
        for index, (name, audio) in enumerate(crops):
            count = len(range(index, self.num_windows // WINDOWS_PER_CROP, len(crops)))
            windows = spread_crops(normalize_peak(audio, PEAK_IN_DB), count, self.sampling_rate)
            features[name] = {embedder.name: self._embed(embedder, windows) for embedder in self.embedders}
        return features, np.array(profiles), 10 * np.log10(np.mean(powers) + 1e-12), peak

    def _embed(self, embedder: Callable, crops: Sequence[torch.Tensor]) -> AudioFeatures:
        """Features of all windows of an item's crops."""
        parts = [embed_audio(Audio(crop, self.sampling_rate), embedder) for crop in crops]
        logits = None if parts[0].logits is None else np.concatenate([part.logits for part in parts])
        return AudioFeatures(np.concatenate([part.embeddings for part in parts]), logits)


def spread_crops(audio: torch.Tensor, count: int, sampling_rate: int) -> list[torch.Tensor]:
    """`count` crops of two windows, spread evenly over `(2, num_samples)`; they overlap if the audio is short."""
    length = round(CROP_IN_S * sampling_rate)
    starts = np.linspace(0, audio.shape[1] - length, count).round().astype(int) if count > 1 else [0]
    return [audio[:, start : start + length] for start in starts]


def print_reconstruction(real: Sequence[Item], decoded: Sequence[Item], sampling_rate: int) -> None:
    """Distances of the paper's Table 5, averaged over the recordings."""
    pairs = [(ours, audio) for (_, ours), (_, audio) in zip(decoded, real, strict=True)]
    rows = [[stft_distance(*pair), mel_distance(*pair, sampling_rate), si_sdr(*pair)] for pair in pairs]
    seconds = sum(audio.shape[1] for _, audio in real) / sampling_rate
    print("| reconstruction of held-out music | STFT distance | mel distance | SI-SDR (dB) |\n|---|---|---|---|")
    print(
        f"| {len(rows)} tracks, {seconds:.0f} s | " + " | ".join(f"{value:.2f}" for value in np.mean(rows, 0)) + " |\n"
    )


def print_adherence(pipe: LongFormMusicPipeline, tracks: Sequence[Track], arguments: argparse.Namespace) -> None:
    """Prints the level before and after the end of each duration, the effect of prompt and seed, and the time."""
    settings = {
        "num_inference_steps": arguments.num_inference_steps,
        "guidance_scale": arguments.guidance_scale,
        "guidance_rescale": arguments.guidance_rescale,
        "output_type": "latent",
        "window_in_s": pipe.max_duration_in_s,
    }
    prompts = [build_prompt(track.metadata, random.Random(arguments.seed)) for track in tracks[:2]]

    def sample(prompt: str, seed: int, duration: float) -> torch.Tensor:
        return pipe(prompt, duration, generator=torch.Generator().manual_seed(seed), **settings).audios[0]

    print("\n| requested (s) | music before the end (dBFS) | from 1.5 times that on (dBFS) |\n|---|---|---|")
    for duration in (share * pipe.max_duration_in_s for share in END_SHARES):
        audio = pipe.decode_latents(sample(prompts[0], 0, duration), pipe.max_duration_in_s)
        asked = round(duration * pipe.sampling_rate)
        levels = [10 * part.square().mean().log10().item() for part in (audio[:, :asked], audio[:, asked * 3 // 2 :])]
        print(f"| {duration:.1f} | {levels[0]:.1f} | {levels[1]:.1f} |")
    duration = min(60.0, pipe.max_duration_in_s / 4)
    start = time.perf_counter()
    latents = [sample(prompt, seed, duration) for prompt, seed in ((prompts[0], 0), (prompts[1], 0), (prompts[0], 1))]
    sampling = (time.perf_counter() - start) / len(latents)
    start = time.perf_counter()
    pipe.decode_latents(latents[0], pipe.max_duration_in_s)
    decoding = time.perf_counter() - start
    num_frames = round(duration * pipe.vae.latent_rate)
    first, prompt, seed = (item[:, :num_frames] for item in latents)
    print()
    for name, other in (("another prompt, same seed", prompt), ("another seed, same prompt", seed)):
        print(
            f"- Change of the latents with {name}: {float((first - other).norm() / first.norm()):.2f} of their norm."
        )
    print(f"- Sampling {arguments.num_inference_steps} steps: {sampling:.1f} s; decoding "
          f"{pipe.max_duration_in_s:.0f} s: {decoding:.1f} s.")  # fmt: skip


def band_levels(waveform: torch.Tensor, sampling_rate: int) -> np.ndarray:
    """Power of each band of `(channels, num_samples)` in dB, relative to the total."""
    spectrum = torch.stft(waveform, 4096, window=torch.hann_window(4096), return_complex=True).abs().square()
    power = spectrum.mean(dim=(0, 2)).numpy()
    frequencies = np.linspace(0, sampling_rate / 2, len(power))
    bands = zip(BAND_EDGES_IN_HZ[:-1], BAND_EDGES_IN_HZ[1:], strict=True)
    levels = [power[(frequencies >= low) & (frequencies < high)].sum() for low, high in bands]
    return 10 * np.log10(np.array(levels) / (power.sum() + 1e-12) + 1e-10)


if __name__ == "__main__":
    run_main(main)
