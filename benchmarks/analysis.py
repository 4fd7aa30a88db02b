"""All of docs/analysis.md that depends on a checkpoint: structure, Figure 4, memorization and a listening test.

    python training/compose_music.py --output_dir composed --num_pieces 400
    python benchmarks/analysis.py --manifest composed/manifest.jsonl --real real --output_dir analysis --card DIR

The manifest has the checkpoint's training set in its split "train", other pieces in "valid" and "test", and their
sections; structure and boundaries are measured on the pieces of "valid" and "test". `--real` has a file of real music
for each genre to draw, named by the genre: Rock.ogg. `--baseline` draws another system's files below it. After an
interruption run the same command again. For another checkpoint use another folder; to save time, move
`memorization/features` there, which does not depend on the model.

The listeners are simulated (`benchmarks/simulated_listeners.py`); they only show that the commands work.
"""

import json
import random
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stable_longform.data.prompts import build_prompt
from stable_longform.data.tracks import Track
from stable_longform.evaluation.audio_files import list_audio, tracks_of_files
from stable_longform.evaluation.reports import markdown_table
from stable_longform.utils.files import make_link, write_text
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, ScriptParser, run_main

MEANS = ("real=4.4", "composed=4.0", "ours=1.8")  # of the simulated listeners
LISTENED_IN_S = 30.0


def main() -> None:
    """Runs all commands and prints how long they took."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="composed pieces")
    parser.add_argument("--real", type=Path, required=True, help="folder with a file of real music for each genre")
    parser.add_argument(
        "--baseline", metavar="NAME=FOLDER", help="music of another system, for the last row of Figure 4"
    )
    parser.add_argument("--checkpoint", default="tiny", help="folder or Hub id")
    parser.add_argument("--embedder", default="chroma", help="embedder for memorization")
    parser.add_number("--segment", SECONDS, kind=float, default=16.0, help="seconds of the compared passages")
    parser.add_number("--num_generations", Range(1, 10**6), default=16, help="generations for each kind of prompt")
    parser.add_number("--duration", SECONDS, kind=float, default=23.6, help="seconds of each of them")
    parser.add_number("--figure_duration", SECONDS, kind=float, default=47.0, help="seconds of those in Figure 4")
    parser.add_argument("--card", help="checkpoint whose model card gets the verdict")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for all results")
    arguments = parser.parse_args()
    write_inputs(arguments.manifest, arguments.real, arguments.output_dir)
    rows, totals = [], [0.0, 0.0]
    for command in make_commands(arguments):
        times = run(command)
        rows.append([shlex.join(command[:4]), *(f"{seconds / 60:.1f}" for seconds in times)])
        totals = [total + seconds for total, seconds in zip(totals, times, strict=True)]
    rows.append(["all", *(f"{total / 60:.1f}" for total in totals)])
    print(markdown_table(("command", "processor time, minutes", "minutes"), rows), end="")


def write_inputs(manifest: Path, real: Path, output: Path) -> None:
    """Links the held-out pieces, and one of them and of real music for each genre; writes prompts of the former.

    Raises:
        ValueError: a genre has no held-out piece.
    """
    held_out = [track for split in ("test", "valid") for track in tracks_of_files(manifest, split)]
    prompts = []
    for number, track in enumerate(held_out):
        make_link(output / "held_out" / f"{number:05}{track.path.suffix}", track.path)
    for genre, path in list_audio(real).items():
        track = find_genre(held_out, genre)
        make_link(output / "music" / "real" / f"{genre}{path.suffix}", path)
        make_link(output / "music" / "composed" / f"{genre}{track.path.suffix}", track.path)
        prompts.append({"id": genre, "prompt": build_prompt(track.metadata, random.Random(genre))})
    write_text(output / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in prompts))


def find_genre(tracks: Sequence[Track], genre: str) -> Track:
    """The first track of a genre."""
    for track in tracks:
        if genre in track.metadata.get("genre", ()):
            return track
    raise ValueError(f"The manifest has no held-out piece of the genre {genre}.")


def make_commands(arguments) -> list[list[str]]:
    """The commands, without the interpreter."""
    output, music = arguments.output_dir, arguments.output_dir / "music"
    cli, model = ["-m", "stable_longform"], ["--checkpoint", arguments.checkpoint]
    rows = [f"{row}={music / row}" for row in ("real", "composed", "ours")]
    memorization = ["--embedder", arguments.embedder, "--segment", arguments.segment, "--duration", arguments.duration]
    memorization += ["--num-generations", arguments.num_generations, "--num-copies", 10, "--num-splices", 24]
    memorization += ["--card", arguments.card] if arguments.card else []
    generated = [output / "prompts.jsonl", music / "ours", "--duration", arguments.figure_duration]
    truth = [output / "held_out", "--truth", arguments.manifest, "--no-pictures"]
    figure = [*rows, arguments.baseline] if arguments.baseline else rows
    test = [*rows, "--prompts", output / "prompts.jsonl", "--part", LISTENED_IN_S, "-o", output / "listening_test"]
    commands = [
        [*cli, "analyze", "structure", *truth, "-o", output / "structure"],
        [*cli, "evaluate", "generate", *generated, *model],
        ["examples/paper/figure_1.py", "--table", arguments.manifest, "--output", output / "figure_1.png"],
        ["examples/paper/figure_4.py", "--rows", *figure, "--output_dir", output / "figure_4"],
        [*cli, "listening-test", "build", *test],
        ["benchmarks/simulated_listeners.py", "--test", output / "listening_test", "--means", *MEANS]
        + ["--output_dir", output / "simulated_listeners"],
        ["examples/paper/table_4.py", "--test", output / "listening_test", "--results"]
        + [output / "simulated_listeners" / "results", "--output_dir", output / "table_4"],
        [*cli, "analyze", "memorization", arguments.manifest, *memorization, *model, "-o", output / "memorization"],
    ]
    return [[str(part) for part in command] for command in commands]


def run(command: Sequence[str]) -> tuple[float, float]:
    """Runs a command; returns its processor time and the time that it took, in seconds."""
    print(f"$ python {shlex.join(command)}", flush=True)
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return processor, time.perf_counter() - start


if __name__ == "__main__":
    run_main(main)
