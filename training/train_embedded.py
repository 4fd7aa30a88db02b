"""From nothing to a checkpoint like the embedded one: all stages in one command that can be stopped and resumed.

    python training/train_embedded.py --minutes 20 --output_dir runs/embedded
    make train-embedded MINUTES=600 DEVICE=cpu OUT=runs/embedded

The minutes are shared out among the stages (`STAGES`): music is composed and rendered, the autoencoder, the text
encoder and the transformer are trained, the transformer with windows of 12, 48, 95 and 285 s, and a pipeline is put
together with its card. Each stage is a script of this folder, and can be run alone with the commands that are logged.

A training whose learning rate falls at its end has to know how many steps it will take. Its first steps tell how long
a step takes; that gives the number, which `progress.json` keeps. So the result depends on the speed of the machine,
but not on stops: run the same command again to go on.
"""

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stable_longform.data.manifest import read_manifest
from stable_longform.models.bfloat16_decoding import multiplies_bfloat16
from stable_longform.utils.files import write_json
from stable_longform.utils.ranges import Range
from stable_longform.utils.run_folder import METRICS_FILE, read_metrics
from stable_longform.utils.scripts import ScriptParser

logger = logging.getLogger("train_embedded")

TRAINING = Path(__file__).resolve().parent
DEVICES = ("cpu", "cuda")
PROGRESS_FILE = "progress.json"
MAX_PIECES = 1200  # some 40 hours
MIN_PIECES, FIRST_SEED = 20, 12  # of 20 pieces two are held out, of these seeds the seventh and eighth
CLAP_BATCH_SIZE = 48  # at most: each pair of a batch is of another piece
POLL_S, SAVE_S = 0.05, 10.0  # between looks at a script, and between writes of the progress
PROBE_STEPS = 8  # of a training, which tell how long a step takes
MIN_STEPS = 12
GPU_BATCH_FACTOR = 16  # batches of the transformer on a GPU are this many times as large


@dataclass(frozen=True)
class Stage:
    """A script, its share of the minutes and, given the folder of all runs, its arguments.

    A trained stage knows how many steps it will take; of the others only the time is limited, or nothing.
    """

    name: str
    script: str
    share: float
    arguments: Callable[[Path], list]
    is_trained: bool = False


def dit_stage(name: str, previous: str | None, share: float, length: int, batch_size: int) -> Stage:
    """A stage of the transformer with windows of `length` latent frames, going on from a previous one.

    `batch_size` is that on a CPU.
    """

    def arguments(runs: Path) -> list:
        factor = GPU_BATCH_FACTOR if torch.cuda.is_available() else 1
        given = [*config("dit_tiny"), "--model.sample_size", length, "--batch_size", factor * batch_size]
        given += ["--num_workers", min(16, max(1, (os.cpu_count() or 1) - 1))]
        given += ["--mixed_precision", "bf16" if has_fast_bfloat16() else "no"]
        given += ["--attention_backend", attention_backend(length)]
        given += ["--latents", runs / "latents", "--clap", runs / "clap" / "clap"]
        return given + (["--init_from", runs / previous / "dit"] if previous else [])

    return Stage(name, "train_dit.py", share, arguments, is_trained=True)


def has_fast_bfloat16() -> bool:
    """Whether the machine multiplies matrices faster in bfloat16 than in float32: GPUs, and CPUs with AVX512-BF16."""
    return torch.cuda.is_available() or multiplies_bfloat16()


def attention_backend(length: int) -> str:
    """The faster attention for windows of `length` latent frames; on a CPU, short ones take plain matrix products."""
    return "native" if torch.cuda.is_available() or length > 1024 else "_native_math"


def config(name: str) -> list:
    """The option that names a preset."""
    return ["--config", TRAINING / "configs" / f"{name}.yaml"]


def manifest(runs: Path) -> list:
    """The option that names the composed music."""
    return ["--manifest", runs / "corpus" / "manifest.jsonl"]


def num_train_pieces(runs: Path) -> int:
    """How many composed pieces there are to train on."""
    return len(read_manifest(runs / "corpus" / "manifest.jsonl", "train"))


STAGES = (
    Stage(
        "corpus",
        "compose_music.py",
        0.10,
        lambda runs: ["--num_pieces", MAX_PIECES, "--min_recordings", MIN_PIECES, "--first_seed", FIRST_SEED],
    ),
    Stage(
        "linear",
        "train_linear_start.py",
        0.06,
        lambda runs: [*config("autoencoder_tiny_linear"), *manifest(runs)],
        is_trained=True,
    ),
    Stage(
        "autoencoder",
        "train_autoencoder.py",
        0.20,
        lambda runs: [*config("autoencoder_tiny"), *manifest(runs), "--init_from", runs / "linear" / "autoencoder"],
        is_trained=True,
    ),
    Stage(
        "decoder",
        "train_autoencoder.py",
        0.06,
        lambda runs: [
            *config("autoencoder_tiny_decoder"),
            *manifest(runs),
            "--init_from",
            runs / "autoencoder" / "autoencoder",
        ],
        is_trained=True,
    ),
    Stage(
        "normalized",
        "normalize_latents.py",
        0.0,
        lambda runs: [*manifest(runs), "--autoencoder", runs / "decoder" / "autoencoder"],
    ),
    Stage(
        "clap",
        "train_clap.py",
        0.08,
        lambda runs: [
            *config("clap_tiny"),
            *manifest(runs),
            "--batch_size",
            min(CLAP_BATCH_SIZE, num_train_pieces(runs)),
        ],
        is_trained=True,
    ),
    Stage(
        "latents",
        "encode_latents.py",
        0.08,
        lambda runs: [*manifest(runs), "--autoencoder", runs / "normalized"],
    ),
    dit_stage("dit_12s", None, 0.22, 256, 16),
    dit_stage("dit_48s", "dit_12s", 0.10, 1024, 4),
    dit_stage("dit_95s", "dit_48s", 0.05, 2048, 2),
    dit_stage("dit_285s", "dit_95s", 0.05, 6144, 1),
    Stage(
        "checkpoint",
        "make_checkpoint.py",
        0.0,
        lambda runs: [
            *("--autoencoder", runs / "normalized", "--clap", runs / "clap" / "clap"),
            *("--dit", runs / "dit_285s" / "dit", "--dtype", "float16"),
            *("--window_in_s", "[11.88, 47.55, 95.1, 285.3]", "--mask_text_padding", "true"),
            *("--num_inference_steps", "12", "--guidance_scale", "3", "--sigma_min", "0.6"),
        ],
    ),
)


class Progress:
    """What `progress.json` keeps: the seconds each stage has had, its number of steps once known, whether it is done.

    Args:
        path: of the file.
        minutes: of all stages together.

    Raises:
        ValueError: the file was made with other minutes, by which the stages have been cut.
    """

    def __init__(self, path: Path, minutes: float):
        self.path = path
        self.state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"minutes": minutes}
        if self.state["minutes"] != minutes:
            raise ValueError(f"{path.parent} was begun with --minutes {self.state['minutes']:g}, got {minutes:g}.")

    def of(self, stage: Stage) -> dict:
        """The entry of a stage, which may be changed and then saved."""
        return self.state.setdefault(stage.name, {"seconds": 0.0, "max_steps": None, "is_done": False})

    def save(self) -> None:
        """Writes the file."""
        write_json(self.path, self.state)


def run_stage(stage: Stage, progress: Progress, options: argparse.Namespace) -> None:
    """Runs a stage to its end, or resumes it.

    Raises:
        RuntimeError: its script failed, or its steps could not be timed.
    """
    entry, folder = progress.of(stage), options.output_dir / stage.name
    if entry["is_done"]:
        return
    seconds = 60 * options.minutes * stage.share
    command = [sys.executable, TRAINING / stage.script, "--output_dir", folder, *stage.arguments(options.output_dir)]
    if stage.is_trained and entry["max_steps"] is None:
        logged: dict[int, float] = {}
        probe = [*command, "--max_steps", PROBE_STEPS, "--log_every", 1]
        run_script(stage, probe, progress, options.device, lambda: note_step(folder, logged))
        if len(logged) < 2:
            raise RuntimeError(f"{stage.name}: its first steps could not be timed; remove {folder} and run again.")
        rate = (max(logged) - min(logged)) / (max(logged.values()) - min(logged.values()))
        entry["max_steps"] = PROBE_STEPS + max(MIN_STEPS, int((seconds - entry["seconds"]) * rate))
        progress.save()
    if stage.is_trained:
        command += ["--max_steps", entry["max_steps"]]
    elif seconds:
        command += ["--max_minutes", max(seconds - entry["seconds"], 1.0) / 60]
    run_script(stage, command, progress, options.device)
    entry["is_done"] = True
    progress.save()


def note_step(folder: Path, logged: dict[int, float]) -> None:
    """Notes when the newest step in a run's log was first seen."""
    if (folder / METRICS_FILE).is_file() and (rows := read_metrics(folder)):
        logged.setdefault(rows[-1]["step"], time.monotonic())


def run_script(
    stage: Stage, command: Sequence, progress: Progress, device: str, look: Callable[[], None] | None = None
) -> None:
    """Runs a script and keeps the time it takes; `look` is called every `POLL_S` seconds while it runs.

    Raises:
        RuntimeError: the script failed.
    """
    entry = progress.of(stage)
    environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if device == "cpu" else {})
    logger.info("%s: %s", stage.name, shlex.join(map(str, command)))
    process = subprocess.Popen([str(part) for part in command], env=environment)
    progress.save()
    had, start = entry["seconds"], time.monotonic()
    next_save = start + SAVE_S
    try:
        while process.poll() is None:
            time.sleep(POLL_S)
            now = time.monotonic()
            entry["seconds"] = had + now - start
            if now >= next_save:
                progress.save()
                next_save = now + SAVE_S
            if look is not None:
                look()
    finally:
        process.terminate()
        process.wait()
        progress.save()
    if process.returncode:
        raise RuntimeError(
            f"{stage.script} ended with exit code {process.returncode}; run the same command to continue."
        )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for all runs and the checkpoint")
    parser.add_number("--minutes", Range(5, 1e6), kind=float, required=True, help="minutes for all stages together")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="device for the training")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs all stages; gives the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        options = parse_arguments(arguments)
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no GPU.")
        options.output_dir.mkdir(parents=True, exist_ok=True)
        progress = Progress(options.output_dir / PROGRESS_FILE, options.minutes)
        for stage in STAGES:
            run_stage(stage, progress, options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"train_embedded.py: error: {error}", file=sys.stderr)
        return 2
    print(options.output_dir / STAGES[-1].name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
