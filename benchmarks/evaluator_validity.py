"""Validates the evaluators that don't need the Hub: real music against increasingly degraded versions of it.

    stable-longform evaluate prepare      # once: downloads the evaluators' weights
    python benchmarks/evaluator_validity.py --manifest corpus/manifest.jsonl [--rendered FOLDER] [--clap FOLDER]

Two disjoint sets of tracks are drawn from the manifest. One is the reference; the other is measured unchanged,
low-passed, mixed to mono, with noise, and replaced by noise. Every row has the same number of 3 s windows. The spread
is over five draws of half of the windows. A folder of music rendered from scores adds a row. Then pairs are compared:
two crops of a track with crops of different tracks, and tracks with their own prompts with other tracks' prompts (from
the manifest's metadata; in the free corpus, MusiCNN's MTT tagger predicted them). The CLAP of a checkpoint adds its
scores for right and wrong prompts. `--pairs_only` skips the distances. Needs the extra `eval`.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import torch

from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import available_fields, build_prompt, values_of
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import PEAK_IN_DB, Audio, list_audio
from stable_longform.evaluation.features import embed_audio
from stable_longform.evaluation.reports import markdown_table
from stable_longform.evaluation.scores import clap_text_score, divergence_score, frechet_score, tag_text_score
from stable_longform.metrics.embedders.clap import ClapEmbedder
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.embedders.minilm import MinilmEmbedder
from stable_longform.metrics.embedders.musicnn import MusicnnEmbedder
from stable_longform.utils.audio import read_audio, resample, to_stereo
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SEEDS, ScriptParser, run_main

RATE, CROP_IN_S, WINDOWS_PER_CROP = 44100, 6.05, 2
CLAP_CROP_IN_S = 10.0
NUM_DRAWS = 5
NUM_SHIFTS = 5  # wrong prompts for each track
TAG_FIELDS = ("genre", "moods", "instruments")  # fields that a tagger can predict, without the tempo


def main() -> None:
    """Prints the tables."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--manifest", required=True, help="any source of music")
    parser.add_number("--num_windows", Range(2, 10**6), default=360, help="3 s windows in each row")
    parser.add_argument("--rendered", type=Path, help="folder of music rendered from scores")
    parser.add_argument("--clap", help="folder of a ClapModel, to compare right and wrong prompts")
    parser.add_argument("--pairs_only", action="store_true", help="skip the distances between sets")
    parser.add_number("--seed", SEEDS, default=0, help="random seed")
    arguments = parser.parse_args()
    start = time.perf_counter()
    embedders = [MusicnnEmbedder("msd"), MusicnnEmbedder("mtt"), Mel44Embedder()]
    tracks = [track for track in read_manifest(arguments.manifest) if track.duration_in_s > 30]
    random.Random(arguments.seed).shuffle(tracks)
    num_crops = arguments.num_windows // WINDOWS_PER_CROP
    if len(tracks) < 2 * num_crops:
        parser.error(f"--num_windows must be at most {len(tracks) // 2 * WINDOWS_PER_CROP} for this manifest")
    reference = features_of(tracks[:num_crops], embedders, same, arguments.seed)
    others = tracks[num_crops : 2 * num_crops]
    real = features_of(others, embedders, same, arguments.seed)
    if not arguments.pairs_only:
        print_distances(others, real, reference, embedders, arguments)
    print_pairs(others, real, embedders, arguments)
    print_prompts(others, real, reference, embedders)
    seconds = time.perf_counter() - start
    print(f"\n{arguments.num_windows} windows a row, {torch.get_num_threads()} threads, {seconds:.0f} s.")


def print_distances(
    tracks: Sequence[Track], real: dict, reference: dict, embedders: Sequence, arguments: argparse.Namespace
) -> None:
    """Prints the distances of real music, and of increasingly degraded versions of it, from the reference."""
    header = ("music", *(f"FD {e.name} | spread" for e in embedders))
    print(f"| {' | '.join(header)} |\n|{'---|' * (2 * len(embedders) + 1)}")
    print_row("real, other tracks", real, reference, embedders)
    for name, change in conditions(arguments.seed).items():
        print_row(name, features_of(tracks, embedders, change, arguments.seed), reference, embedders)
    if arguments.rendered:
        paths = list(list_audio(arguments.rendered).values())
        scores = [Track(path, soundfile.info(path).duration, "extra") for path in paths]
        rendered = [scores[number % len(scores)] for number in range(len(tracks))]
        print_row("rendered from scores", features_of(rendered, embedders, same, arguments.seed), reference, embedders)


def conditions(seed: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The degradation of the audio in each row."""
    generator = torch.Generator().manual_seed(seed)

    def low_pass(cutoff: float) -> Callable[[torch.Tensor], torch.Tensor]:
        sections = scipy.signal.butter(12, cutoff, fs=RATE, output="sos")
        return lambda audio: torch.from_numpy(scipy.signal.sosfiltfilt(sections, audio.numpy()).copy()).float()

    def noise(audio: torch.Tensor) -> torch.Tensor:
        return audio.std() * torch.randn(audio.shape, generator=generator)

    return {
        "low-passed at 16 kHz": low_pass(16000),
        "mono": lambda audio: audio.mean(dim=0, keepdim=True).expand(2, -1),
        "low-passed at 2 kHz": low_pass(2000),
        "white noise added, 5 dB SNR": lambda audio: audio + 10 ** (-5 / 20) * noise(audio),
        "white noise alone": noise,
    }


def read_crop(track: Track, duration_in_s: float, key: str) -> torch.Tensor:
    """A stereo crop at 44.1 kHz; its position is a function of the key."""
    start_in_s = random.Random(f"{key}{track.path.name}").random() * (track.duration_in_s - duration_in_s - 0.2)
    waveform, rate = read_audio(track.path, start_in_s, duration_in_s + 0.1)
    return to_stereo(resample(waveform, rate, RATE))[:, : round(duration_in_s * RATE)]


def same(audio: torch.Tensor) -> torch.Tensor:
    """Returns the audio unchanged."""
    return audio


def features_of(
    tracks: Sequence[Track], embedders: Sequence, change: Callable[[torch.Tensor], torch.Tensor], seed: int
) -> dict:
    """Features of one crop of each track, degraded and then normalised."""
    found = {}
    for number, track in enumerate(tracks):
        crop = Audio(change(read_crop(track, CROP_IN_S, f"{seed}-{number}-")), RATE)
        found[f"{number}"] = {embedder.name: embed_audio(crop, embedder, PEAK_IN_DB) for embedder in embedders}
    return found


def print_row(name: str, found: dict, reference: dict, embedders: Sequence) -> None:
    """Prints one row of distances, with their spread over draws of half of the windows."""
    cells = []
    num_windows = WINDOWS_PER_CROP * len(found)
    for embedder in embedders:
        whole = frechet_score(found, reference, embedder.name, num_windows).value
        draws = [frechet_score(found, reference, embedder.name, num_windows // 2, s).value for s in range(NUM_DRAWS)]
        cells += [f"{whole:.1f}", f"{np.mean(draws):.1f} ± {np.std(draws):.1f}"]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_prompts(tracks: Sequence[Track], real: dict, reference: dict, embedders: Sequence) -> None:
    """Prints tag-text scores with a track's own and with other tracks' prompts, complete and drawn as in training."""
    text_embedder = MinilmEmbedder.from_cache()
    chosen = {
        str(number): track.metadata
        for number, track in enumerate(tracks)
        if any(values_of(track.metadata, field) for field in TAG_FIELDS)
    }
    kinds = {
        "genre, moods and instruments": [
            ", ".join(value for field in TAG_FIELDS for value in values_of(metadata, field))
            for metadata in chosen.values()
        ],
        "a prompt as in training": [build_prompt(metadata, random.Random(n)) for n, metadata in chosen.items()],
    }
    rows = []
    for embedder in embedders[:2]:
        for kind, texts in kinds.items():
            shifts = [
                tag_text_score(
                    real, reference, embedder, text_embedder, dict(zip(chosen, texts[k:] + texts[:k], strict=True))
                ).per_file
                for k in range(NUM_SHIFTS + 1)
            ]
            scores = np.array([list(per_file.values()) for per_file in shifts])  # (shifts, tracks), the first is right
            right, wrong = scores[0], scores[1:].mean(axis=0)
            cells = [f"{v.mean():.3f} ± {v.std() / len(v) ** 0.5:.3f}" for v in (right, wrong, right - wrong)]
            share = f"{(scores[0] > scores[1:]).mean():.0%}"
            rows.append((f"tag_text_{embedder.name}: {kind}", *cells, share))
    header = (f"prompts, {len(chosen)} tracks", "right", "wrong", "difference", "right is above")
    print("\n" + markdown_table(header, rows), end="", flush=True)


def print_pairs(tracks: Sequence[Track], real: dict, embedders: Sequence, arguments: argparse.Namespace) -> None:
    """Prints tag divergences and CLAP scores of right and wrong pairs."""
    again = features_of(tracks, embedders[:2], same, arguments.seed + 1)
    names = list(real)
    rows = []
    for embedder in embedders[:2]:
        values = []
        for pairs in (dict(zip(names, names, strict=True)), dict(zip(names, names[1:] + names[:1], strict=True))):
            per_file = list(divergence_score(real, again, embedder.name, pairs).per_file.values())
            values.append(f"{np.mean(per_file):.2f} ± {np.std(per_file) / len(per_file) ** 0.5:.2f}")
        rows.append((f"kl_{embedder.name}: two crops of a track, of different tracks", *values))
    if arguments.clap:
        embedder = ClapEmbedder.from_pretrained(arguments.clap, "clap")
        chosen = [track for track in tracks if available_fields(track.metadata) and track.split != "train"]
        crops = {str(n): read_crop(track, CLAP_CROP_IN_S, f"{arguments.seed}-") for n, track in enumerate(chosen)}
        found = {name: {"clap": embed_audio(Audio(crop, RATE), embedder)} for name, crop in crops.items()}
        prompts = {str(n): build_prompt(track.metadata, random.Random(n)) for n, track in enumerate(chosen)}
        shifted = dict(zip(prompts, [*prompts.values()][1:] + [*prompts.values()][:1], strict=True))
        values = [f"{clap_text_score(found, embedder, texts).value:.3f}" for texts in (prompts, shifted)]
        rows.append((f"clap_score: own prompt, another's ({len(chosen)} tracks not trained on)", *values))
    print("\n" + markdown_table(("pairs", "right", "wrong"), rows), end="")


if __name__ == "__main__":
    run_main(main)
