"""The command `stable-longform generate`: music from prompts."""

import json
import math
import secrets
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

import stable_longform
from stable_longform.cli.common import (
    check_outputs,
    load_pipeline,
    note,
    read_limits,
    resolve_checkpoint,
    show_progress,
)
from stable_longform.cli.options import (
    DTYPES,
    Checkpoint,
    Device,
    Json,
    Overwrite,
    Quiet,
    SampleFormat,
    check_device,
    seconds_option,
)
from stable_longform.cli.settings import (
    MAX_GUIDANCE_SCALE,
    MAX_LORA_SCALE,
    MAX_SEED,
    MAX_STEPS,
    SCHEDULERS,
    Settings,
    make_tags,
    read_settings,
)
from stable_longform.utils.audio import stored, write_audio
from stable_longform.utils.optional import require
from stable_longform.utils.ranges import Range

MAX_RANDOM_SEED = 2**32 - 1
MAX_VARIATIONS = 1000


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
            "--from", help="File made by this command: takes its settings; options that are given change them."
        ),
    ] = None,
    duration_in_s: Annotated[
        float | None,
        seconds_option("--duration", "Music to make, as 90 or 1:30, up to the model's window. [default: the window]"),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the music should not be like.")] = None,
    num_inference_steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, max=MAX_STEPS, help="Sampling steps. [default: the checkpoint's]"),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            min=-MAX_GUIDANCE_SCALE,
            max=MAX_GUIDANCE_SCALE,
            help="How strongly the prompt is followed; 1 switches guidance off. [default: the checkpoint's]",
        ),
    ] = None,
    guidance_rescale: Annotated[
        float, typer.Option(min=0, max=1, help="How far guidance is kept from making the result louder.")
    ] = 0.0,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="T0 T1",
            help="Times in 0 to 1, from music to noise, between which guidance is on. [default: the checkpoint's]",
        ),
    ] = None,
    seconds_start: Annotated[
        float, seconds_option("--start", "Where in the whole piece the music starts.", Range(0, 1e6))
    ] = 0.0,
    seconds_total: Annotated[
        float | None, seconds_option("--total", "Duration of the whole piece. [default: start plus duration]")
    ] = None,
    window_in_s: Annotated[
        float | None,
        seconds_option("--window", "Seconds to sample, of which the duration is kept. [default: as trained]"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(SCHEDULERS[:-1])} or {SCHEDULERS[-1]}. [default: the checkpoint's]"),
    ] = None,
    lora: Annotated[str | None, typer.Option(help="Folder, file or Hub id of a LoRA adapter.")] = None,
    lora_scale: Annotated[float, typer.Option(min=-MAX_LORA_SCALE, max=MAX_LORA_SCALE, help="Its strength.")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="[default: random, and reported at the start]")
    ] = None,
    variations: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_VARIATIONS,
            help="Files for each prompt, with rising seeds. Several files are numbered: music-1.wav, music-2.wav ...",
        ),
    ] = 1,
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16 or float16, of the transformer and the text encoder. "
            "The autoencoder always computes in float32."
        ),
    ] = "float32",
    sample_format: SampleFormat = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    is_json: Json = False,
) -> None:
    """Makes music from PROMPT and writes it to a file.

    Prompt, seed, settings and checkpoint are stored in the file's tags (`stable-longform info FILE` shows them), and
    `--from FILE` makes the same music again. Where the audio goes beyond full scale it is turned down as a whole, not
    clipped.
    """
    settings = Settings() if from_file is None else read_settings(from_file)
    settings = replace(settings, **_given(context, is_new=from_file is None))
    prompts = _read_prompts(prompt, prompt_file, settings.prompt if from_file is not None else None)
    is_random = seed is None and from_file is None
    if is_random:
        settings = replace(settings, seed=secrets.randbelow(MAX_RANDOM_SEED + 1))
    every = [
        replace(settings, prompt=text, seed=settings.seed + number) for text in prompts for number in range(variations)
    ]
    for one in every:
        one.check()
    chosen = check_device(device)
    paths = _number(output, len(every))
    check_outputs(paths, sample_format, overwrite)
    folder = resolve_checkpoint(settings.checkpoint)
    _check_limits(settings, read_limits(folder))
    if settings.lora is not None:
        require("peft", "train")

    pipe = _open(folder, settings, chosen, quiet)
    if is_random:
        note(f"seed: {settings.seed}", quiet)
    for one, path in zip(every, paths, strict=True):
        made = _make(pipe, one, path, sample_format, quiet)
        typer.echo(json.dumps({"path": str(path)} | made, ensure_ascii=False) if is_json else path)


def _given(context: typer.Context, is_new: bool) -> dict:
    """Settings that the command line gives; for new music also those of the environment."""
    sources = ("COMMANDLINE", "ENVIRONMENT") if is_new else ("COMMANDLINE",)
    names = {field.name for field in fields(Settings)} & context.params.keys()
    return {name: context.params[name] for name in names if context.get_parameter_source(name).name in sources}


def _read_prompts(prompt: str | None, prompt_file: Path | None, stored_prompt: str | None) -> list[str]:
    """The prompts from the argument, the file, or the tags of another file."""
    if prompt is None and prompt_file is None and stored_prompt is not None:
        return [stored_prompt]
    if (prompt is None) == (prompt_file is None):
        raise ValueError("Give either PROMPT or --prompt-file.")
    if prompt_file is None:
        return [prompt]
    try:
        lines = prompt_file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{prompt_file} is not UTF-8 text: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
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
        raise ValueError(f"--window must be in (0, {window:.3f}] seconds, got {settings.window_in_s}.")
    longest = settings.window_in_s or window
    duration = longest if settings.duration_in_s is None else settings.duration_in_s
    if duration > longest:
        raise ValueError(f"--duration must be in (0, {longest:.3f}] seconds, got {duration}.")
    total = settings.seconds_total or settings.seconds_start + duration
    if total > latest:
        raise ValueError(f"--start plus --duration, or --total, must be at most {latest} seconds, got {total}.")
    if settings.seconds_start >= total:
        raise ValueError(f"--start must be before --total={total} seconds, got {settings.seconds_start}.")


def _open(checkpoint: str, settings: Settings, device: torch.device, quiet: bool):
    """The pipeline, with the scheduler and the adapter that were asked for."""
    pipe = load_pipeline(checkpoint, device, DTYPES[settings.dtype])
    pipe.set_progress_bar_config(desc="sampling", disable=quiet)
    if settings.scheduler is not None:
        pipe.use_scheduler(settings.scheduler)
    if settings.lora is not None:
        pipe.load_lora_weights(settings.lora, adapter_name="lora")
        pipe.set_adapters("lora", settings.lora_scale)
    return pipe


def _make(pipe, settings: Settings, path: Path, sample_format: str | None, quiet: bool) -> dict:
    """Writes one file; returns what its tags say."""
    own = {name: pipe.config[name] for name in ("num_inference_steps", "guidance_scale")}
    settings = replace(settings, **{name: own[name] for name in own if getattr(settings, name) is None})
    duration = settings.duration_in_s or settings.window_in_s or pipe.max_duration_in_s
    arguments = asdict(settings)
    names = (
        "prompt",
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
        duration=duration,
        generator=torch.Generator().manual_seed(settings.seed),
        output_type="latent",
        **{name: arguments[name] for name in names},
    ).audios[0]
    values = replace(settings, duration_in_s=duration).to_dict()
    values |= {"device": pipe.transformer.device.type, "version": stable_longform.__version__}
    chunks = show_progress(pipe.stream_latents(latents, duration), duration, pipe.sampling_rate, quiet)
    with stored(chunks, path.absolute().parent) as (chunks, peak):
        values["gain"] = gain = 1 / max(peak, 1)
        tags = make_tags(settings.prompt, values)
        write_audio(path, (chunk * gain for chunk in chunks), pipe.sampling_rate, sample_format, tags)
    if gain < 1:
        note(f"turned down by {-20 * math.log10(gain):.2f} dB: the peak was {1 / gain:.3f}", quiet)
    return values
