"""Compares a distilled student in 8, 4, 2 and 1 steps with its teacher with guidance: quality, diversity, time.

    python benchmarks/few_steps.py --student runs/steps8/checkpoint --plot few_steps.png
    python benchmarks/few_steps.py --lora runs/steps8/lora --schedulers ddim ping-pong
    python benchmarks/few_steps.py                # the teacher itself in few steps, the baseline for distillation

Teacher and student use the same prompts and seeds. Fréchet distance and KAD compare the mel44 embeddings (spectrum and
stereo image) of a row's music with those of the teacher's. The teacher's own row compares even with odd seeds, which
gives the chance level. Diversity is the mean distance between the embeddings of one prompt's music with different
seeds, relative to the teacher's; distillation reduces it. End error is the distance of a row's latents from the
teacher's latents with the same seed. Sampling is the processor time for one piece. The second table has what
`stable-longform evaluate control` and `analyze structure` report: the power in partials and in four notes (medians),
how often tempo and key are those of the prompt, and, for pieces of at least 10 and 20 s, late returns and derivation
(means). Needs the extra `eval`.
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
import torch
from timing import machine, print_table, relative_error

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.analysis.features import extract_features
from stable_longform.analysis.structure import MIN_DURATION_IN_S, analyze_structure
from stable_longform.evaluation.control import Heard, asked_by_prompt, tempo_and_key_shares
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.frechet import GaussianStatistics, frechet_distance
from stable_longform.metrics.kernel_distance import KernelSums, kernel_distance
from stable_longform.metrics.key import estimate_key
from stable_longform.metrics.tempo import SAMPLING_RATE, estimate_tempo
from stable_longform.metrics.tonality import note_share, partial_share
from stable_longform.schedulers.scheduling import scheduler_by_name
from stable_longform.utils.accepted_values import SCHEDULER_NAMES
from stable_longform.utils.audio import resample
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import STEPS, ScriptParser, run_main

HEADER = ("model", "Fréchet distance", "KAD", "diversity", "end error", "sampling, s")
MUSIC_HEADER = ("model", "partials", "four notes", "tempo right", "key right", "late return", "derivation")
PROMPTS = (
    "Genre: Ambient|Instruments: Synth Pad, Piano|Moods: Calm|BPM: 70|Key: C major",
    "Genre: Rock|Instruments: Electric Guitar, Bass, Drums|Moods: Energetic|BPM: 130|Key: E minor",
    "Genre: Classical|Instruments: Strings, Flute|BPM: 96|Key: G major",
    "Genre: Techno|Instruments: Synth, Drums|BPM: 140|Key: A minor",
)


@dataclass(frozen=True)
class Pieces:
    """What a model makes: all latents, mel44 embeddings by prompt and seed, seconds of sampling for one, its music."""

    latents: torch.Tensor
    embeddings: list[list[np.ndarray]]
    seconds: float
    heard: dict[tuple[int, int], Heard]
    structures: list[dict[str, float]]


def main() -> None:
    """Prints the table, and draws it if requested."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--teacher", default=TINY_CHECKPOINT, help="folder or Hub id of the teacher")
    parser.add_argument("--student", help="folder of a distilled checkpoint; by default the teacher itself")
    parser.add_argument("--lora", help="folder of the student's adapter instead")
    parser.add_number("--steps", STEPS, nargs="+", default=[8, 4, 2, 1], help="steps of the student, one row each")
    parser.add_argument(
        "--schedulers", nargs="+", choices=SCHEDULER_NAMES, default=["ddim"], help="samplers of the student"
    )
    parser.add_number("--teacher_steps", STEPS, default=50, help="sampling steps of the teacher")
    parser.add_number(
        "--guidance_scale", Range(-100, 100), kind=float, help="of the teacher; by default its checkpoint's"
    )
    parser.add_number("--num_prompts", Range(1, len(PROMPTS)), default=len(PROMPTS), help="number of built-in prompts")
    parser.add_number("--num_seeds", Range(2, 10**4), default=4, help="number of pieces for each prompt")
    parser.add_number("--duration", Range(3, 1e5), kind=float, default=11.5, help="seconds of each piece")
    parser.add_number(
        "--window", Range(0, 1e5, above=True), kind=float, help="window in seconds; by default as in training"
    )
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    print(f"pieces of {arguments.duration:g} s; {machine('cpu')}\n")
    teacher = open_pipeline(arguments.teacher)
    guided = {"num_inference_steps": arguments.teacher_steps, "guidance_scale": arguments.guidance_scale}
    reference = make(teacher, arguments, **guided)
    name = f"teacher, {arguments.teacher_steps} guided steps"
    halves = [[row[half::2] for row in reference.embeddings] for half in (0, 1)]
    rows = [(name, *distances(*halves), 1.0, 0.0, reference.seconds)]
    musical = [(name, *describe(reference))]
    student = open_pipeline(arguments.student or arguments.teacher, arguments.lora)
    own = student.scheduler  # whose noise levels each of the others has; ping-pong itself has no table of them
    for scheduler, steps in itertools.product(arguments.schedulers, arguments.steps):
        student.scheduler = scheduler_by_name(scheduler, own)
        pieces = make(student, arguments, num_inference_steps=steps, guidance_scale=1.0)
        spread = diversity(pieces.embeddings) / diversity(reference.embeddings)
        error = relative_error(pieces.latents, reference.latents)
        name = f"student, {scheduler}, {steps} steps"
        rows.append((name, *distances(pieces.embeddings, reference.embeddings), spread, error, pieces.seconds))
        musical.append((name, *describe(pieces)))
    print_table(HEADER, rows)
    print_table(MUSIC_HEADER, musical)
    if arguments.plot is not None:
        plot(arguments.plot, arguments.schedulers, arguments.steps, rows)


def open_pipeline(checkpoint: str, lora: str | None = None) -> LongFormMusicPipeline:
    """A checkpoint, with an adapter if there is one."""
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(lora)
    return pipe


@torch.inference_mode()
def make(pipe: LongFormMusicPipeline, arguments: argparse.Namespace, **settings) -> Pieces:
    """Pieces of all prompts and seeds."""
    embedder, latents, embeddings, heard, structures, seconds = Mel44Embedder(), [], [], {}, [], 0.0
    for number, prompt in enumerate(PROMPTS[: arguments.num_prompts]):
        embeddings.append([])
        for seed in range(arguments.num_seeds):
            generator = torch.Generator().manual_seed(1000 * number + seed)
            start = time.process_time()
            call = {"generator": generator, "output_type": "latent", "window_in_s": arguments.window}
            latents.append(pipe(prompt, arguments.duration, **call, **settings).audios[0])
            seconds += time.process_time() - start
            audio = pipe.decode_latents(latents[-1], arguments.duration)
            embeddings[-1].append(np.asarray(embedder(audio).embeddings))
            heard[number, seed] = listen(audio, pipe.vae.config.sampling_rate)
            if arguments.duration >= MIN_DURATION_IN_S:
                half_rate = resample(audio, pipe.vae.config.sampling_rate, SAMPLING_RATE)
                structures.append(analyze_structure(extract_features([half_rate])).values)
    return Pieces(torch.stack(latents), embeddings, seconds / len(latents), heard, structures)


def listen(audio: torch.Tensor, rate: int) -> Heard:
    """What `stable-longform evaluate control` estimates of a piece."""
    mono = resample(audio.mean(dim=0, keepdim=True), rate, SAMPLING_RATE)[0].numpy()
    notes = partial_share(audio, rate), note_share(audio, rate)
    return Heard(estimate_tempo(mono), estimate_key(mono), *notes, audio.shape[1] / rate, None)


def describe(pieces: Pieces) -> tuple:
    """A row of `MUSIC_HEADER` without the name; empty where the pieces are too short."""
    asked = {key: asked_by_prompt(PROMPTS[key[0]], {}) for key in pieces.heard}
    shares = tempo_and_key_shares(asked, pieces.heard)
    notes = np.median([(heard.partial_share, heard.note_share) for heard in pieces.heard.values()], axis=0)
    right = [shares[name].value for name in ("tempo within 4 %", "key, or its relative")]
    means = []
    for metric in ("late_return", "derivation"):
        values = [structure[metric] for structure in pieces.structures if metric in structure]
        means.append(float(np.mean(values)) if values else "")
    return (*map(float, notes), *map(float, right), *means)


def distances(pieces: list[list[np.ndarray]], others: list[list[np.ndarray]]) -> tuple[float, float]:
    """Fréchet distance and KAD between two sets of pieces."""
    sets = [list(itertools.chain.from_iterable(part)) for part in (pieces, others)]
    frechet = frechet_distance(*(GaussianStatistics.from_embeddings(np.concatenate(part)) for part in sets))
    return frechet, kernel_distance(KernelSums.from_embeddings(*sets))


def diversity(pieces: list[list[np.ndarray]]) -> float:
    """Mean distance between the mean embeddings of pieces of the same prompt."""
    spreads = []
    for row in pieces:
        means = [piece.mean(axis=0) for piece in row]
        spreads += [np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)]
    return float(np.mean(spreads))


def plot(path: Path, schedulers: list[str], steps: list[int], rows: list[tuple]) -> None:
    """KAD and diversity over the number of steps, a curve for each scheduler, with the teacher's as lines."""
    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    figure = matplotlib.figure.Figure(figsize=(7, 3.2), layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), (2, 3), strict=True):
        for number, scheduler in enumerate(schedulers):
            own = rows[1 + number * len(steps) : 1 + (number + 1) * len(steps)]
            axes.plot(steps, [row[column] for row in own], "o-", label=f"student, {scheduler}")
        axes.axhline(rows[0][column], linestyle=":", label=rows[0][0])
        axes.set(xscale="log", xticks=steps, xticklabels=steps, xlabel="steps", ylabel=HEADER[column])
        axes.minorticks_off()
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run_main(main)
