"""What the creative modes keep, how their borders sound, and what they cost.

    python benchmarks/creative_modes.py --input music_folder --num_files 10 --duration 20 --window_in_s 24

Without `--window_in_s` each mode samples the smallest window that the checkpoint was trained on and that holds the
duration. Extensions go beyond the window in overlapping ones.

The first `--duration` seconds of each file go through every mode of one checkpoint. For each mode the mean over files:

- the error of what is kept, which must be 0, or for transform the relative distance from the autoencoder's
  reconstruction (strength towards 0 and an edit with equal prompts must be 0);
- `metrics/clicks.py:click_ratio` at the borders, the largest of them: at most 1 means that none stands out;
- time as a ratio to text to music of the same length, measured in the same run.

One line of JSON for each mode goes to stdout.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from stable_longform import (
    TINY_CHECKPOINT,
    LongFormMusicAudioToAudioPipeline,
    LongFormMusicInpaintPipeline,
    LongFormMusicPipeline,
)
from stable_longform.metrics.clicks import click_ratio
from stable_longform.pipelines.audio_inputs import read_audios
from stable_longform.utils.ranges import Range
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

AROUND_IN_S = 1.0  # on either side of a border, against which it is measured
EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")


def main() -> None:
    """Measures every mode on every file."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="folder of audio files, each at least --duration")
    parser.add_number("--num_files", Range(1, 1000), default=10, help="files, the first by name")
    parser.add_number("--duration", SECONDS, kind=float, default=20.0, help="seconds of each file")
    parser.add_number(
        "--window_in_s", SECONDS, kind=float, help="seconds that are sampled at once; not given: as trained"
    )
    parser.add_number("--num_inference_steps", STEPS, default=50, help="sampling steps")
    parser.add_argument("--prompt", default="Genre: Electronic|Instruments: Synthesizer, Drums", help="of the results")
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.input.glob("*") if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise ValueError(f"--input {arguments.input} holds no audio files: {', '.join(EXTENSIONS)}.")

    music = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    transform = LongFormMusicAudioToAudioPipeline.from_pipe(music)
    inpaint = LongFormMusicInpaintPipeline.from_pipe(music)
    for pipe in (music, transform, inpaint):
        pipe.set_progress_bar_config(disable=True)
    rows: dict[str, list[dict]] = {}
    for path in files[: arguments.num_files]:
        audio = read_audios(path, None, music.sampling_rate, music.vae.config.audio_channels)[0]
        audio = audio[:, : round(arguments.duration * music.sampling_rate)]
        if audio.shape[1] < round(arguments.duration * music.sampling_rate):
            raise ValueError(f"{path} is shorter than --duration {arguments.duration:g} s.")
        for name, row in measure(music, transform, inpaint, audio, arguments).items():
            rows.setdefault(name, []).append(row)
    for name, measured in rows.items():
        means = {key: sum(row[key] for row in measured) / len(measured) for key in measured[0]}
        print(json.dumps({"mode": name, "files": len(measured)} | {key: round(v, 4) for key, v in means.items()}))


def measure(music, transform, inpaint, audio: torch.Tensor, arguments: argparse.Namespace) -> dict[str, dict]:
    """The numbers of one recording, by mode."""
    seconds, prompt = audio.shape[1] / music.sampling_rate, arguments.prompt
    window = {"window_in_s": arguments.window_in_s}
    shared = {"num_inference_steps": arguments.num_inference_steps} | window
    generator = torch.Generator()
    start = time.perf_counter()
    music(prompt, seconds, generator=generator.manual_seed(0), **shared)
    text_to_music = time.perf_counter() - start
    reconstruction = transform("", audio, strength=1e-5, num_inference_steps=1, **window).audios[0]
    rows = {}
    transforms = {
        "transform, noise, strength 0.8": {"strength": 0.8},
        "transform, invert, strength 0.8": {"strength": 0.8, "method": "invert"},
        "transform, edit, strength 0.8": {"strength": 0.8, "method": "edit"},
        "transform, edit, equal prompts": {"strength": 0.8, "method": "edit", "source_prompt": prompt},
        "transform, noise, strength 0.001": {"strength": 0.001},
    }
    for name, options in transforms.items():
        start = time.perf_counter()
        result = transform(prompt, audio, generator=generator.manual_seed(0), **options, **shared).audios[0]
        error = float((result - reconstruction).norm() / reconstruction.norm())
        rows[name] = {"distance": error, "time": (time.perf_counter() - start) / text_to_music}
    third = seconds / 3
    inpaints = {
        "inpaint, the middle third": ({"regions": [(third, 2 * third)]}, (third, 2 * third)),
        "extend, a third more": ({"extend_to": 4 * third}, (3 * third,)),
        "extend, a third before": ({"prepend_in_s": third}, (third,)),
        "extend, a loop": ({"extend_to": 4 * third, "loop": True}, (3 * third, 4 * third)),
    }
    for name, (options, borders) in inpaints.items():
        start = time.perf_counter()
        result = inpaint(prompt, audio, generator=generator.manual_seed(0), **options, **shared).audios[0]
        taken = time.perf_counter() - start
        before = round(options.get("prepend_in_s", 0) * music.sampling_rate)
        kept = result[:, before : before + audio.shape[1]]
        is_kept = torch.ones(audio.shape[1], dtype=torch.bool)
        for low, high in options.get("regions", ()):
            is_kept[round(low * music.sampling_rate) : round(high * music.sampling_rate)] = False
        error = float((kept - audio)[:, is_kept].abs().max())
        ends = torch.cat([result, result], dim=1) if "loop" in options else result
        around = round(AROUND_IN_S * music.sampling_rate)
        clicks = max(click_ratio(ends, round(border * music.sampling_rate), around) for border in borders)
        rows[name] = {"kept error": error, "click ratio": clicks, "time": taken / text_to_music}
    return rows


if __name__ == "__main__":
    run_main(main)
