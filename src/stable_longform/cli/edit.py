"""The commands `stable-longform transform`, `inpaint` and `extend`: music from other music."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import torch
import typer

import stable_longform
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
from stable_longform.cli.edit_settings import InpaintSettings, TransformSettings
from stable_longform.cli.options import check_device, seconds_option, with_music_options
from stable_longform.cli.settings import (
    Settings,
    given_settings,
    read_sections,
    read_stored,
    settings_from_tags,
    source_of,
)
from stable_longform.pipelines.sections import check_durations
from stable_longform.utils.accepted_values import MAX_CROSSFADE_IN_S, MAX_REPEATS, SCHEDULER_NAMES
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.files import file_sha256
from stable_longform.utils.ranges import Range
from stable_longform.utils.recordings import MAX_DURATION_IN_S, check_content, check_file
from stable_longform.utils.seeding import draw_seed
from stable_longform.utils.timecodes import SECONDS, parse_region

FOLLOWED_SCHEDULERS = {"noise": SCHEDULER_NAMES, "invert": ("dpmsolver++",), "edit": ("dpmsolver++", "ping-pong")}
PLACES = Range(0, MAX_DURATION_IN_S)  # seconds of audio

Input = Annotated[
    Path | None,
    typer.Argument(metavar="INPUT", help="Audio file of any rate, mono or stereo; may be left out with --from."),
]
PromptArgument = Annotated[
    str, typer.Argument(metavar="PROMPT", help="What the result should be like; '' is music without a prompt.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write: .wav, .flac, .ogg, .opus or .mp3.")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="File made by this command, whose settings and input are used; INPUT, PROMPT and options override them.",
    ),
]
Context = Annotated[
    float | None,
    seconds_option(
        "--context",
        "Seconds of music on either side of a new part that condition the model. [default: its window]",
        Range(SECONDS.low, MAX_DURATION_IN_S),
    ),
]
Crossfade = Annotated[
    float | None,
    typer.Option(
        "--crossfade",
        min=0,
        max=MAX_CROSSFADE_IN_S,
        help="Seconds of cross-fade at the borders, inside the new part; at most half of it. [default: 0.05]",
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", min=1, max=MAX_REPEATS, help="How often each step is repeated; the time grows accordingly."
    ),
]
Loop = Annotated[
    bool,
    typer.Option(
        "--loop/--no-loop", help="Make the end lead back to the beginning; new music must touch one of them."
    ),
]


Own = TypeVar("Own", TransformSettings, InpaintSettings)


@dataclass(frozen=True)
class Edit(Generic[Own]):
    """A checked edit of an audio file.

    Args:
        input: the audio file.
        info: from its header.
        sha256: of the file.
        settings: common to all commands.
        own: the settings of this command.
        duration_in_s: of the result.
        checkpoint: folder or Hub id.
        device: the selected device.
    """

    input: Path
    info: AudioInfo
    sha256: str
    settings: Settings
    own: Own
    duration_in_s: float
    checkpoint: str
    device: torch.device


@with_music_options
def transform(
    context: typer.Context,
    input: Input = None,
    prompt: PromptArgument = "",
    output: Output = Path("transformed.wav"),
    from_file: From = None,
    strength: Annotated[
        float,
        typer.Option(min=0, max=1, help="Greater than 0 (near it, the input itself), up to 1 (independent of it)."),
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

    Settings are stored in the file's tags; `stable-longform info FILE` shows them, and `--from FILE` makes it again.
    """
    edit = _check(context, TransformSettings)
    method, scheduler = edit.own.method, edit.settings.scheduler
    if scheduler not in (None, *FOLLOWED_SCHEDULERS[method]):
        accepted = " or ".join(FOLLOWED_SCHEDULERS[method])
        raise ValueError(f"--method {method} needs --scheduler {accepted}, got {scheduler}.")
    limits, duration = read_limits(edit.checkpoint), edit.duration_in_s
    if limits is not None and duration > limits[0]:
        raise ValueError(f"The result would last {duration:g} s: give a --duration in (0, {limits[0]:.3f}] seconds.")

    pipe, settings = _open("LongFormMusicAudioToAudioPipeline", context, edit)
    latents = pipe(**_shared_arguments(edit), **asdict(edit.own), duration=duration, output_type="latent").audios[0]
    _write(context, pipe, pipe.stream_latents(latents, duration), edit, settings)


@with_music_options
def inpaint(
    context: typer.Context,
    input: Input = None,
    prompt: PromptArgument = "",
    output: Output = Path("inpainted.wav"),
    from_file: From = None,
    regions: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="START-STOP", help="Part to replace, such as 0:10-0:15. May be repeated."),
    ] = None,
    loop: Loop = False,
    context_in_s: Context = None,
    crossfade_in_s: Crossfade = None,
    num_repeats: Repeats = 3,
) -> None:
    """Replaces parts of INPUT; the rest stays bit-identical at the model's rate.

    Settings are stored in the file's tags; `stable-longform info FILE` shows them, and `--from FILE` makes it again.
    """
    if not regions and from_file is None:
        raise ValueError("Give at least one --region START-STOP.")
    _inpaint(context, _check(context, InpaintSettings))


@with_music_options
def extend(
    context: typer.Context,
    input: Input = None,
    prompt: PromptArgument = "",
    output: Output = Path("extended.wav"),
    from_file: From = None,
    extend_to: Annotated[
        float | None,
        seconds_option(
            "--to", "Duration of the result, as 90 or 1:30, up to an hour; the music continues after INPUT."
        ),
    ] = None,
    prepend_in_s: Annotated[float, seconds_option("--prepend", "Seconds of new music before INPUT.", PLACES)] = 0.0,
    loop: Loop = False,
    context_in_s: Context = None,
    crossfade_in_s: Crossfade = None,
    num_repeats: Repeats = 3,
) -> None:
    """Continues INPUT at its end (--to) or its beginning (--prepend) and leaves INPUT itself unchanged.

    Music beyond the model's window is sampled in overlapping windows, and decoded while it is written. Settings are
    stored in the file's tags; `stable-longform info FILE` shows them, and `--from FILE` makes it again.
    """
    if extend_to is None and prepend_in_s == 0 and from_file is None:
        raise ValueError("Give --to SECONDS, --prepend SECONDS or both.")
    _inpaint(context, _check(context, InpaintSettings))


# --- check


def _check(context: typer.Context, cls: type[Own]) -> Edit[Own]:
    """Checks everything from the command line and `--from`; `cls` is the class of the command's own settings."""
    options, path = context.params, context.params["from_file"]
    assert context.info_name is not None  # a command has a name
    stored = None if path is None else read_stored(path, context.info_name)
    settings = _settings(context, stored)
    input = options["input"] or _find_input(path, stored)
    info = check_file(input)
    if os.path.realpath(options["output"]) == os.path.realpath(input):
        raise ValueError(f"{options['output']} is the input: choose another output.")
    own = _own_settings(context, cls, stored, info)
    device = check_device(options["device"])
    check_outputs([options["output"]], options["sample_format"], options["overwrite"])
    folder = resolve_checkpoint(settings.checkpoint)
    check_adapter(settings.lora)
    check_content(input)
    sha256 = file_sha256(input)
    if isinstance(own, InpaintSettings):
        duration = own.duration_in_s(info)
    elif stored is not None and sha256 != stored.get("input_sha256") and options["duration_in_s"] is None:
        duration = info.duration_in_s  # of other audio than the stored duration is of
    else:
        duration = settings.duration_in_s or info.duration_in_s
    if settings.sections is not None:
        check_durations([settings.sections], [duration])
    return Edit(input, info, sha256, replace(settings, duration_in_s=duration), own, duration, folder, device)


def _settings(context: typer.Context, stored: dict | None) -> Settings:
    """The common settings of the commands, from the options and from another file's tags."""
    options, given = context.params, given_settings(context, is_new=stored is None)
    settings = Settings() if stored is None else settings_from_tags(stored, options["from_file"])
    settings = replace(settings, **given)
    if options["sections_file"] is not None:
        if given.get("prompt"):
            raise ValueError("Give either PROMPT or --sections.")
        settings = replace(settings, prompt="", sections=read_sections(options["sections_file"]))
    elif "prompt" in given:
        settings = replace(settings, sections=None)
    if stored is None and options["seed"] is None:
        settings = replace(settings, seed=draw_seed())
    settings.check()
    return settings


def _own_settings(context: typer.Context, cls: type[Own], stored: dict | None, info: AudioInfo) -> Own:
    """The command's own settings, from the options, or from the tags for options that are not given."""
    options = {field.name: context.params[field.name] for field in fields(cls) if field.name in context.params}
    if options.get("regions"):
        options["regions"] = [_parse_region(region) for region in options["regions"]]
    stored = stored or {}
    for name in options.keys() & stored.keys():
        if source_of(context, name) != "COMMANDLINE":
            options[name] = stored[name]
    if options.get("method") == "noise" and source_of(context, "source_prompt") != "COMMANDLINE":
        options["source_prompt"] = None  # of another file's method
    own = cls(**options)
    own.check(info)
    return own


def _find_input(path: Path | None, stored: dict | None) -> Path:
    """The file from which another file was made: beside it, or in the current folder."""
    if path is None or stored is None:
        raise ValueError("Give INPUT, or --from FILE.")
    name = Path(str(stored.get("input"))).name
    found = [folder / name for folder in (path.parent, Path()) if (folder / name).is_file()]
    if not found:
        raise ValueError(f"{path} was made from {name}, which is neither beside it nor in this folder: give INPUT.")
    for candidate in found:
        if file_sha256(candidate) == stored.get("input_sha256"):
            return candidate
    raise ValueError(
        f"{found[0]} has changed since {path} was made from it (its SHA-256 differs): to use it as it is, give it as "
        "INPUT."
    )


def _parse_region(text: str) -> tuple[float, float]:
    """Parses a region such as `0:10-0:15` to seconds."""
    try:
        return parse_region(text, PLACES)
    except ValueError as error:
        raise ValueError(f"--region {error}") from error


# --- make


def _open(name: str, context: typer.Context, edit: Edit):
    """The pipeline of a public class, and the settings completed with the checkpoint's defaults."""
    quiet = context.params["quiet"]
    pipe = getattr(stable_longform, name).from_pipe(open_pipeline(edit.checkpoint, edit.settings, edit.device, quiet))
    pipe.set_progress_bar_config(desc="sampling", disable=quiet)
    if context.params["seed"] is None and context.params["from_file"] is None:
        note(f"seed: {edit.settings.seed}", quiet)
    return pipe, fill_in(edit.settings, pipe)


def _shared_arguments(edit: Edit) -> dict:
    """Arguments of every pipeline that starts from audio."""
    names = ("negative_prompt", "num_inference_steps", "guidance_scale")
    return {
        "prompt": edit.settings.sections or edit.settings.prompt,
        "audio": edit.input,
        "generator": torch.Generator().manual_seed(edit.settings.seed),
        **{name: getattr(edit.settings, name) for name in names},
    }


def _inpaint(context: typer.Context, edit: Edit) -> None:
    """Runs the inpainting pipeline and writes its result while it is decoded."""
    pipe, settings = _open("LongFormMusicInpaintPipeline", context, edit)
    chunks = pipe(**_shared_arguments(edit), **asdict(edit.own), output_type="stream").audios[0]
    _write(context, pipe, chunks, edit, settings)


def _write(context: typer.Context, pipe, chunks: Iterator[torch.Tensor], edit: Edit, settings: Settings) -> None:
    """Writes decoded chunks; the tags contain the command, its input and all settings."""
    options = context.params
    values = {"command": context.info_name, "input": edit.input.name, "input_sha256": edit.sha256}
    values |= settings.to_dict()
    own = asdict(edit.own)
    values |= {name: own[name] for name in own if name in options and own[name] is not None}
    made = write_with_progress(
        pipe,
        chunks,
        edit.duration_in_s,
        options["output"],
        settings.title,
        values,
        options["sample_format"],
        options["quiet"],
    )
    report(options["output"], made, options["is_json"])
