"""Table of the creative modes: what they preserve, the quality of their borders and new parts, and their cost.

    python benchmarks/creative_modes.py --manifest corpus/manifest.jsonl --output modes

The first `--duration` seconds of each held-out piece go through every mode of one checkpoint, with the prompt of the
next piece, so that nothing in the recording helps to fulfil it. For each mode, over all pieces:

- kept error: the largest difference in what is to be kept, which must be 0;
- distance: of a transform from the autoencoder's reconstruction, as a part of its norm; strength towards 0 and an edit
  with equal prompts must give 0;
- click ratio: `metrics/clicks.py:click_ratio` at the borders, the mean of each piece's largest; at most 1 means that
  none stands out;
- FD mel44: the Fréchet distance of new parts, a third of the duration each, to music of the training split. So few
  windows make it large: compare it with the row of the recordings, which has as many;
- own prompt wins: how often a probe that was fitted on the training split finds that a new part fits its own prompt
  better than that of another piece, and the standard error over pieces. Chance is 50 %;
- time: processor time as a ratio to text to music of `--duration`, measured in the same run.

`--output` gets the new parts as files, the table, and the numbers of each piece as JSON. Run the same command again
after an interruption: pieces that are done are kept.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from timing import machine

from stable_longform import (
    TINY_CHECKPOINT,
    LongFormMusicAudioToAudioPipeline,
    LongFormMusicInpaintPipeline,
    LongFormMusicPipeline,
)
from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import full_prompt
from stable_longform.data.sources import open_source
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import ReadingSettings
from stable_longform.evaluation.control import TAGGER, WordListeners, asked_by_truth
from stable_longform.evaluation.control_report import show_share
from stable_longform.evaluation.embedders import load_embedder
from stable_longform.evaluation.features import file_features
from stable_longform.evaluation.reports import markdown_table
from stable_longform.evaluation.scores import frechet_score
from stable_longform.metrics.clicks import click_ratio
from stable_longform.metrics.embedders.minilm import MinilmEmbedder
from stable_longform.pipelines.audio_inputs import read_audios
from stable_longform.utils.audio import write_audio
from stable_longform.utils.files import write_json, write_text
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, SEEDS, STEPS, ScriptParser, run_main

AROUND_IN_S = 1.0  # on either side of a border, against which it is measured
EMBEDDERS = (TAGGER, "mel44")


@dataclass
class Result:
    """What is measured of one mode and one piece; None is what a mode does not have."""

    seconds: float = 0.0
    kept_error: float | None = None
    distance: float | None = None
    click_ratio: float | None = None


def main() -> None:
    """Measures every mode on every piece, then scores the new parts of each mode together."""
    parser = ScriptParser(__doc__)
    parser.add_argument(
        "--manifest", type=Path, required=True, help="manifest of composed pieces, see compose_music.py"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the new parts")
    parser.add_argument("--split", default="test", help="split with the pieces to edit")
    parser.add_number(
        "--num_files", Range(3, 1000), default=10, help="number of pieces; the first that are long enough"
    )
    parser.add_number("--duration", Range(9, 1000), kind=float, default=18.0, help="seconds of each piece")
    parser.add_number("--window_in_s", SECONDS, kind=float, default=24.0, help="seconds that are sampled at once")
    parser.add_number("--num_inference_steps", STEPS, help="sampling steps; by default the checkpoint's")
    parser.add_number(
        "--num_truth", Range(100, 10000), default=120, help="number of pieces of the training split, for comparison"
    )
    parser.add_number("--seed", SEEDS, default=0, help="seed of the noise")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    arguments = parser.parse_args()
    pieces = [
        track
        for track in read_manifest(arguments.manifest, arguments.split)
        if track.duration_in_s >= arguments.duration
    ]
    pieces = pieces[: arguments.num_files]
    if len(pieces) < arguments.num_files:
        raise ValueError(
            f"{arguments.manifest} has {len(pieces)} pieces of {arguments.duration:g} s in {arguments.split}."
        )
    truth = open_source(str(arguments.manifest), "train").share(max_tracks=arguments.num_truth)
    _check_settings(arguments)
    modes = Modes(arguments)
    results: dict[str, list[Result]] = {}
    for number, piece in enumerate(pieces):
        prompt, own_prompt = (full_prompt(pieces[n % len(pieces)].metadata) for n in (number + 1, number))
        stored = arguments.output / "results" / f"{number}.json"
        if not stored.is_file():
            found = {}
            for name, result, part in modes.run(piece, prompt, own_prompt):
                found[name] = asdict(result)
                write_audio(_part_path(arguments.output, name, number), part, modes.music.sampling_rate, "float")
            write_json(stored, found)
        for name, values in json.loads(stored.read_text(encoding="utf-8")).items():
            results.setdefault(name, []).append(Result(**values))
    scores = score_parts(arguments, list(results), pieces, truth)
    rows = [[name, *_summarize(found, results["text to music"]), *scores[name]] for name, found in results.items()]
    header = (
        "mode",
        "kept error",
        "distance",
        "click ratio",
        "time",
        "FD mel44",
        "own genre wins",
        "own instruments win",
    )
    table = markdown_table(header, rows) + f"\n{len(pieces)} pieces; {machine('cpu')}\n"
    write_text(arguments.output / "table.md", table)
    print(table, end="")


def _check_settings(arguments: argparse.Namespace) -> None:
    """Keeps what the results depend on; raises a ValueError if the folder holds results of something else."""
    path, settings = (
        arguments.output / "settings.json",
        {k: str(v) for k, v in vars(arguments).items() if k != "output"},
    )
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise ValueError(f"{arguments.output} holds results of other settings: choose another --output.")
    (arguments.output / "results").mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


class Modes:
    """All modes of one checkpoint."""

    def __init__(self, arguments: argparse.Namespace):
        self.music = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
        self.transform = LongFormMusicAudioToAudioPipeline.from_pipe(self.music)
        self.inpaint = LongFormMusicInpaintPipeline.from_pipe(self.music)
        for pipe in (self.music, self.transform, self.inpaint):
            pipe.set_progress_bar_config(disable=True)
        self.duration, self.seed = arguments.duration, arguments.seed
        self.shared = {"window_in_s": arguments.window_in_s, "num_inference_steps": arguments.num_inference_steps}

    def run(self, piece: Track, prompt: str, own_prompt: str) -> Iterator[tuple[str, Result, torch.Tensor]]:
        """The name of each mode, what is measured of it, and its new part."""
        third, rate = self.duration / 3, self.music.sampling_rate
        audio = read_audios(piece.path, None, rate, self.music.vae.config.audio_channels)[0]
        audio = audio[:, : round(self.duration * rate)]
        reconstruction, _ = self._make(self.transform, "", audio, strength=1e-5, num_inference_steps=1)

        def part(waveform: torch.Tensor, start_in_s: float = third) -> torch.Tensor:
            return waveform[:, round(start_in_s * rate) : round((start_in_s + third) * rate)]

        yield "the recordings", Result(), part(audio)
        yield "their reconstructions", Result(), part(reconstruction)
        result, seconds = self._make(self.music, prompt, self.duration)
        yield "text to music", Result(seconds), part(result)
        edit = {"strength": 0.8, "method": "edit"}
        transforms = {
            "transform, `noise`, strength 0.8": {"strength": 0.8},
            "transform, `noise`, strength 0.001": {"strength": 0.001},
            "transform, `invert`, strength 0.8": {"strength": 0.8, "method": "invert", "source_prompt": own_prompt},
            "transform, `edit`, strength 0.8": edit | {"source_prompt": own_prompt},
            "transform, `edit`, equal prompts": edit | {"source_prompt": prompt},
        }
        for name, options in transforms.items():
            result, seconds = self._make(self.transform, prompt, audio, **options)
            distance = float((result - reconstruction).norm() / reconstruction.norm())
            yield name, Result(seconds, distance=distance), part(result)
        new = {  # options, where the audio starts in the result, the new third, borders
            "inpaint, the middle third": ({"regions": [(third, 2 * third)]}, 0, third, (third, 2 * third)),
            "extend, a third after": ({"extend_to": 4 * third}, 0, 3 * third, (3 * third,)),
            "extend, a third before": ({"prepend_in_s": third}, third, 0, (third,)),
            "extend, a loop": ({"extend_to": 4 * third, "loop": True}, 0, 3 * third, (3 * third, 4 * third)),
        }
        for name, (options, shift, start, borders) in new.items():
            result, seconds = self._make(self.inpaint, prompt, audio, **options)
            kept = result[:, round(shift * rate) :][:, : audio.shape[1]]
            is_kept = torch.ones(audio.shape[1], dtype=torch.bool)
            for low, high in options.get("regions", ()):
                is_kept[round(low * rate) : round(high * rate)] = False
            error = float((kept - audio)[:, is_kept].abs().max())
            twice = torch.cat([result, result], dim=1)  # in which the end of a loop meets its start
            clicks = max(click_ratio(twice, round(at * rate), round(AROUND_IN_S * rate)) for at in borders)
            yield name, Result(seconds, error, click_ratio=clicks), part(result, start)

    def _make(self, pipe: Callable, *inputs, **options) -> tuple[torch.Tensor, float]:
        """A result, and seconds of processor time."""
        generator, start = torch.Generator().manual_seed(self.seed), time.process_time()
        result = pipe(*inputs, generator=generator, **(self.shared | options)).audios[0]
        return result, time.process_time() - start


def score_parts(arguments: argparse.Namespace, modes: list[str], pieces: list[Track], truth: list[Track]) -> dict:
    """For each mode FD and the two shares of wins of its new parts."""
    embedders = [load_embedder(name) for name in EMBEDDERS]
    settings, cache = ReadingSettings(trim_in_s=arguments.duration / 3), arguments.output / "features"
    known = file_features(
        {str(track.path): track.path for track in truth}, embedders, settings, cache, "truth"
    ).features
    asked = {str(track.path): asked_by_truth(track.metadata) for track in truth}
    listeners = WordListeners(known, asked, embedders[0].tags, MinilmEmbedder.from_cache())
    scores = {}
    for mode in modes:
        files = {str(number): _part_path(arguments.output, mode, number) for number in range(len(pieces))}
        features = file_features(files, embedders, settings, cache, mode).features
        shift = 0 if mode in ("the recordings", "their reconstructions") else 1  # whose prompt it had
        wanted = {name: asked_by_truth(pieces[(int(name) + shift) % len(pieces)].metadata) for name in features}
        shares = listeners.shares(features, wanted)
        wins = [shares[f"{field}, probe"] for field in ("genre", "instruments")]
        shown = [show_share(share and asdict(share)) for share in wins]
        scores[mode] = [round(frechet_score(features, known, "mel44").value), *shown]
    return scores


def _part_path(folder: Path, mode: str, number: int) -> Path:
    """The file of the new part of a piece."""
    name = "".join(character if character.isalnum() or character == "." else "-" for character in mode)
    (folder / "parts" / name).mkdir(parents=True, exist_ok=True)
    return folder / "parts" / name / f"{number}.wav"


def _summarize(results: list[Result], references: list[Result]) -> list[float | None]:
    """Kept error, distance, click ratio and time of one mode: the largest error, the means of the others."""
    columns = []
    for name, summary in (("kept_error", max), ("distance", np.mean), ("click_ratio", np.mean)):
        values = [getattr(result, name) for result in results]
        columns.append(None if None in values else float(summary(values)))
    seconds, reference = (sum(result.seconds for result in every) for every in (results, references))
    return [*columns, round(seconds / reference, 2) if seconds else None]


if __name__ == "__main__":
    run_main(main)
