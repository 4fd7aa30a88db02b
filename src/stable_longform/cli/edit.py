"""The commands `stable-longform transform`, `inpaint` and `extend`: music from music."""

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

import stable_longform
from stable_longform.cli.common import (
    check_outputs,
    fill_in,
    note,
    open_pipeline,
    report,
    resolve_checkpoint,
    write_with_progress,
)
from stable_longform.cli.options import (
    check_choice,
    check_device,
    seconds_option,
    with_music_options,
)
from stable_longform.cli.settings import Settings, draw_seed, read_sections
from stable_longform.pipelines.pieces import check_regions
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.optional import require
from stable_longform.utils.ranges import Range
from stable_longform.utils.recordings import MAX_DURATION_IN_S, check_file
from stable_longform.utils.timecodes import parse_region

PLACES = Range(0, MAX_DURATION_IN_S)  # seconds of audio
METHODS = ("noise", "invert", "edit")

Input = Annotated[Path, typer.Argument(metavar="INPUT", help="Audio file of any rate, mono or stereo.")]
PromptArgument = Annotated[
    str, typer.Argument(metavar="[PROMPT]", help="What the result should be like; '' is music without a prompt.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write: .wav, .flac, .ogg, .opus or .mp3.")]
Context = Annotated[
    float | None,
    seconds_option(
        "--context", "Seconds of music on either side of a new part that condition the model. [default: its window]"
    ),
]
Crossfade = Annotated[
    float,
    typer.Option("--crossfade", min=0, max=10, help="Seconds of cross-fade at the borders, inside the new part."),
]
Repeats = Annotated[
    int, typer.Option("--repeats", min=1, max=100, help="How often each step is repeated; the time grows accordingly.")
]
Loop = Annotated[
    bool, typer.Option("--loop", help="Make the end lead back to the beginning; one of them must be new.")
]


@with_music_options
def transform(
    context: typer.Context,
    input: Input,
    prompt: PromptArgument = "",
    output: Output = Path("transformed.wav"),
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="From 0 (the input itself) to 1 (independent of the input).")
    ] = 0.8,
    method: Annotated[
        str,
        typer.Option(
            help="noise: add noise and remove it with the prompt. invert: find the noise that the model would make "
            "the music from. edit: follow the difference between two prompts."
        ),
    ] = "noise",
    source_prompt: Annotated[str | None, typer.Option(help="Describes the input, for invert and edit.")] = None,
    duration_in_s: Annotated[
        float | None, seconds_option("--duration", "Seconds of the result. [default: as long as the input]")
    ] = None,
) -> None:
    """Transforms INPUT: a variation, another style, other instruments.

    Settings are stored in the file's tags; `stable-longform info FILE` shows them.
    """
    settings = _settings(context)
    if strength == 0:
        raise ValueError("--strength must be greater than 0: `stable-longform reconstruct` is what 0 would be.")
    check_choice("--method", method, METHODS)
    if source_prompt is not None and method == "noise":
        raise ValueError("--source-prompt is for --method invert and --method edit.")
    own = {"strength": strength, "method": method, "source_prompt": source_prompt}
    info, folder, chosen = _check(context, settings)

    pipe, settings = _open("LongFormMusicAudioToAudioPipeline", context, folder, settings, chosen)
    latents = pipe(
        **_shared_arguments(context, settings),
        **own,
        duration=settings.duration_in_s,
        output_type="latent",
    ).audios[0]
    settings = replace(settings, duration_in_s=settings.duration_in_s or info.duration_in_s)
    _write(context, pipe, pipe.stream_latents(latents, settings.duration_in_s), settings, own)


@with_music_options
def inpaint(
    context: typer.Context,
    input: Input,
    prompt: PromptArgument = "",
    output: Output = Path("inpainted.wav"),
    regions: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="START-STOP", help="Part to replace, such as 0:10-0:15. May be repeated."),
    ] = None,
    loop: Loop = False,
    context_in_s: Context = None,
    crossfade_in_s: Crossfade = 0.05,
    num_repeats: Repeats = 3,
) -> None:
    """Replaces parts of INPUT; the rest stays bit-identical at the model's rate.

    Settings are stored in the file's tags; `stable-longform info FILE` shows them.
    """
    settings = _settings(context)
    if not regions:
        raise ValueError("Give at least one --region START-STOP.")
    own = {
        "regions": [_parse_region(region) for region in regions],
        "loop": loop,
        "context_in_s": context_in_s,
        "crossfade_in_s": crossfade_in_s,
        "num_repeats": num_repeats,
    }
    info, folder, chosen = _check(context, settings)
    check_regions(own["regions"], round(info.duration_in_s * info.sampling_rate), info.sampling_rate)
    _inpaint(context, folder, replace(settings, duration_in_s=info.duration_in_s), chosen, own)


@with_music_options
def extend(
    context: typer.Context,
    input: Input,
    prompt: PromptArgument = "",
    output: Output = Path("extended.wav"),
    extend_to: Annotated[
        float | None,
        seconds_option("--to", "Duration of the result in seconds, up to an hour; the music continues after INPUT."),
    ] = None,
    prepend_in_s: Annotated[float, seconds_option("--prepend", "Seconds of new music before INPUT.", PLACES)] = 0.0,
    loop: Loop = False,
    context_in_s: Context = None,
    crossfade_in_s: Crossfade = 0.05,
    num_repeats: Repeats = 3,
) -> None:
    """Continues INPUT at its end (--to) or its beginning (--prepend) and leaves INPUT itself unchanged.

    Music beyond the model's window is sampled in overlapping windows, and decoded while it is written. Settings are
    stored in the file's tags; `stable-longform info FILE` shows them.
    """
    settings = _settings(context)
    if extend_to is None and prepend_in_s == 0:
        raise ValueError("Give --to SECONDS, --prepend SECONDS or both.")
    own = {
        "extend_to": extend_to,
        "prepend_in_s": prepend_in_s,
        "loop": loop,
        "context_in_s": context_in_s,
        "crossfade_in_s": crossfade_in_s,
        "num_repeats": num_repeats,
    }
    info, folder, chosen = _check(context, settings)
    seconds = info.duration_in_s + prepend_in_s
    if extend_to is not None:
        if not seconds < extend_to <= MAX_DURATION_IN_S:
            raise ValueError(f"--to must be in ({seconds:g}, {MAX_DURATION_IN_S:g}] seconds, got {extend_to:g}.")
        seconds = extend_to
    _inpaint(context, folder, replace(settings, duration_in_s=seconds), chosen, own)


def _settings(context: typer.Context) -> Settings:
    """The settings that the commands have in common, from their options."""
    names = {field.name for field in fields(Settings)} & context.params.keys() - {"seed"}
    seed, sections_file = context.params["seed"], context.params["sections_file"]
    if sections_file is not None and context.params["prompt"]:
        raise ValueError("Give either PROMPT or --sections.")
    settings = Settings(
        **{name: context.params[name] for name in names},
        seed=draw_seed() if seed is None else seed,
        sections=None if sections_file is None else read_sections(sections_file),
    )
    settings.check()
    return settings


def _check(context: typer.Context, settings: Settings) -> tuple[AudioInfo, str, torch.device]:
    """Checks files and device; returns what the input's header says, the checkpoint's folder or Hub id, the device."""
    input, output = context.params["input"], context.params["output"]
    info = check_file(input)
    if os.path.realpath(output) == os.path.realpath(input):
        raise ValueError(f"{output} is the input: choose another output.")
    device = check_device(context.params["device"])
    check_outputs([output], context.params["sample_format"], context.params["overwrite"])
    folder = resolve_checkpoint(settings.checkpoint)
    if settings.lora is not None:
        require("peft", "train")
    return info, folder, device


def _open(name: str, context: typer.Context, folder: str, settings: Settings, device: torch.device):
    """The pipeline of a public class, and the settings with the checkpoint's own filled in."""
    quiet = context.params["quiet"]
    pipe = getattr(stable_longform, name).from_pipe(open_pipeline(folder, settings, device, quiet))
    pipe.set_progress_bar_config(desc="sampling", disable=quiet)
    if context.params["seed"] is None:
        note(f"seed: {settings.seed}", quiet)
    return pipe, fill_in(settings, pipe)


def _shared_arguments(context: typer.Context, settings: Settings) -> dict:
    """Arguments of every pipeline that starts from audio."""
    names = ("negative_prompt", "num_inference_steps", "guidance_scale")
    return {
        "prompt": settings.sections or settings.prompt,
        "audio": context.params["input"],
        "generator": torch.Generator().manual_seed(settings.seed),
        **{name: getattr(settings, name) for name in names},
    }


def _inpaint(context: typer.Context, folder: str, settings: Settings, device: torch.device, own: dict) -> None:
    """Runs the inpainting pipeline and writes its result while it is decoded."""
    pipe, settings = _open("LongFormMusicInpaintPipeline", context, folder, settings, device)
    chunks = pipe(**_shared_arguments(context, settings), **own, output_type="stream").audios[0]
    _write(context, pipe, chunks, settings, own)


def _write(context: typer.Context, pipe, chunks: Iterator[torch.Tensor], settings: Settings, own: dict) -> None:
    """Writes decoded chunks; the tags say the command, its input and every setting that is not its default."""
    options = context.params
    values = {"command": context.info_name, "input": options["input"].name} | settings.to_dict()
    values |= {name: value for name, value in own.items() if value is not None}
    made = write_with_progress(
        pipe,
        chunks,
        settings.duration_in_s,
        options["output"],
        settings.title,
        values,
        options["sample_format"],
        options["quiet"],
    )
    report(options["output"], made, options["is_json"])


def _parse_region(text: str) -> tuple[float, float]:
    """`0:10-0:15` as seconds."""
    try:
        return parse_region(text, PLACES)
    except ValueError as error:
        raise ValueError(f"--region {error}") from error
