"""The command `stable-longform generate`: music from prompts."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from stable_longform.cli.common import (
    check_adapter,
    check_outputs,
    fill_in,
    note,
    open_pipeline,
    read_limits,
    report,
    resolve_checkpoint,
    write_with_progress,
)
from stable_longform.cli.options import check_device, seconds_option, with_music_options
from stable_longform.cli.settings import (
    Settings,
    given_settings,
    read_sections,
    read_stored,
    settings_from_tags,
)
from stable_longform.pipelines.sections import check_durations
from stable_longform.utils.ranges import Range
from stable_longform.utils.seeding import draw_seed
from stable_longform.utils.text_files import read_lines
from stable_longform.utils.timecodes import SECONDS

MAX_VARIATIONS = 1000


@with_music_options
def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="For example 'Genre: Ambient|Instruments: Piano, Strings'. '' is music without a prompt.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write: .wav, .flac, .ogg, .opus or .mp3.")
    ] = Path("music.wav"),
    prompt_file: Annotated[
        Path | None,
        typer.Option(help="UTF-8 text file with a prompt on each line, instead of PROMPT; blank lines are skipped."),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", help="File made by this command, whose settings are used; other options override them."
        ),
    ] = None,
    duration_in_s: Annotated[
        float | None,
        seconds_option("--duration", "Music to make, as 90 or 1:30, up to the model's window. [default: the window]"),
    ] = None,
    guidance_rescale: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How strongly the level of the guided prediction is reduced to that of the conditional one.",
        ),
    ] = 0.0,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="T0 T1",
            help="Times between which guidance is on, from 0 (music) to 1 (noise). [default: the checkpoint's]",
        ),
    ] = None,
    seconds_start: Annotated[
        float, seconds_option("--start", "Start of the music within the whole piece.", Range(0, 1e6))
    ] = 0.0,
    seconds_total: Annotated[
        float | None, seconds_option("--total", "Duration of the whole piece. [default: start plus duration]")
    ] = None,
    window_in_s: Annotated[
        float | None,
        seconds_option(
            "--window", "Seconds to sample, of which the duration is kept. [default: the smallest that fits]"
        ),
    ] = None,
    variations: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_VARIATIONS,
            help="Files for each prompt, with rising seeds. Several files are numbered: music-1.wav, music-2.wav ...",
        ),
    ] = 1,
) -> None:
    """Generates music from PROMPT and writes it to a file.

    Prompt, seed, settings and checkpoint are stored in the file's tags (`stable-longform info FILE` shows them), and
    `--from FILE` makes the same music again. If the audio exceeds full scale, the whole is turned down instead of
    clipped; with `--sample-format float` it keeps its level.
    """
    options = context.params
    sections_file, sample_format, quiet = options["sections_file"], options["sample_format"], options["quiet"]
    settings = Settings()
    if from_file is not None:
        settings = settings_from_tags(read_stored(from_file, "generate"), from_file)
    settings = replace(settings, **given_settings(context, is_new=from_file is None))
    if sections_file is not None:
        settings = replace(settings, prompt="", sections=read_sections(sections_file))
    is_known = from_file is not None or settings.sections is not None
    if sections_file is None and (prompt is not None or prompt_file is not None):
        settings = replace(settings, sections=None)
    prompts = _read_prompts(prompt, prompt_file, settings.prompt if is_known else None, sections_file)
    is_random = options["seed"] is None and from_file is None
    if is_random:
        settings = replace(settings, seed=draw_seed())
    every = [
        replace(settings, prompt=text, seed=settings.seed + number) for text in prompts for number in range(variations)
    ]
    for one in every:
        one.check()
    chosen = check_device(options["device"])
    paths = _number(output, len(every))
    check_outputs(paths, sample_format, options["overwrite"])
    folder = resolve_checkpoint(settings.checkpoint)
    _check_limits(settings, read_limits(folder))
    check_adapter(settings.lora)

    pipe = open_pipeline(folder, settings, chosen, quiet)
    if is_random:
        note(f"seed: {settings.seed}", quiet)
    for one, path in zip(every, paths, strict=True):
        made = _make(pipe, one, path, sample_format, quiet)
        report(path, made, options["is_json"])


def _read_prompts(
    prompt: str | None, prompt_file: Path | None, stored_prompt: str | None, sections_file: Path | None
) -> list[str]:
    """The prompts from the argument, the file, or the tags of another file; none with sections."""
    if sections_file is not None and (prompt is not None or prompt_file is not None):
        raise ValueError("Give either PROMPT, --prompt-file or --sections.")
    if prompt is None and prompt_file is None and stored_prompt is not None:
        return [stored_prompt]
    if prompt is not None and prompt_file is None:
        return [prompt]
    if prompt is not None or prompt_file is None:
        raise ValueError("Give either PROMPT, --prompt-file or --sections.")
    prompts = [line for _, line in read_lines(prompt_file)]
    if not prompts:
        raise ValueError(f"{prompt_file} holds no prompt: all its lines are blank.")
    return prompts


def _number(path: Path, count: int) -> list[Path]:
    """The path, or numbered ones if there are several files."""
    if count == 1:
        return [path]
    width = len(str(count))
    return [path.with_name(f"{path.stem}-{number:0{width}}{path.suffix}") for number in range(1, count + 1)]


def _check_limits(settings: Settings, limits: tuple[float, float] | None) -> None:
    """Raises a ValueError for times that the model does not know, if its limits are known before it is loaded."""
    if limits is None:
        return
    window, latest = limits
    if settings.window_in_s is not None and settings.window_in_s > window:
        raise ValueError(f"--window must be in [{SECONDS.low}, {window:.3f}] seconds, got {settings.window_in_s}.")
    longest = settings.window_in_s or window
    duration = longest if settings.duration_in_s is None else settings.duration_in_s
    if duration > longest:
        raise ValueError(f"--duration must be in [{SECONDS.low}, {longest:.3f}] seconds, got {duration}.")
    if settings.sections is not None:
        check_durations([settings.sections], [duration])
    total = settings.seconds_total or settings.seconds_start + duration
    if total > latest:
        raise ValueError(f"--start plus --duration, or --total, must be at most {latest} seconds, got {total}.")
    if settings.seconds_start >= total:
        raise ValueError(f"--start must be before --total={total} seconds, got {settings.seconds_start}.")


def _make(pipe, settings: Settings, path: Path, sample_format: str | None, quiet: bool) -> dict:
    """Writes one file; returns the values in its tags."""
    settings = fill_in(settings, pipe)
    duration = settings.duration_in_s or settings.window_in_s or pipe.max_duration_in_s
    arguments = asdict(settings)
    names = (
        "negative_prompt",
        "seconds_start",
        "seconds_total",
        "num_inference_steps",
        "guidance_scale",
        "guidance_rescale",
        "guidance_interval",
        "window_in_s",
    )
    latents = pipe(
        settings.sections or settings.prompt,
        duration,
        generator=torch.Generator().manual_seed(settings.seed),
        output_type="latent",
        **{name: arguments[name] for name in names},
    ).audios[0]
    values = replace(settings, duration_in_s=duration).to_dict()
    chunks = pipe.stream_latents(latents, duration)
    return write_with_progress(pipe, chunks, duration, path, settings.title, values, sample_format, quiet)
