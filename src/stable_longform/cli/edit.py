"""The commands `stable-longform transform`, `inpaint` and `extend`: music from music."""

import secrets
from dataclasses import replace
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
    write_music,
)
from stable_longform.cli.options import (
    Checkpoint,
    Device,
    Dtype,
    GuidanceScale,
    Json,
    Lora,
    LoraScale,
    NegativePrompt,
    Overwrite,
    Quiet,
    SampleFormat,
    Scheduler,
    SectionsFile,
    Seed,
    Steps,
    check_choice,
    check_device,
    check_range,
    check_seconds,
    parse_seconds,
    seconds_option,
)
from stable_longform.cli.settings import Settings, read_sections
from stable_longform.pipelines.pieces import check_regions
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.optional import require
from stable_longform.utils.recordings import MAX_DURATION_IN_S, check_file

MAX_RANDOM_SEED = 2**32 - 1
METHODS = ("noise", "invert", "edit")

Input = Annotated[Path, typer.Argument(metavar="INPUT", help="Audio file of any rate, mono or stereo.")]
PromptArgument = Annotated[
    str, typer.Argument(metavar="[PROMPT]", help="What the result should be like; '' is music without a prompt.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write: .wav, .flac, .ogg, .opus or .mp3.")]
Context = Annotated[
    float | None,
    seconds_option("--context", "Music on either side of a new part that the model hears. [default: its window]"),
]
Crossfade = Annotated[
    float, typer.Option("--crossfade", min=0, max=10, help="Seconds at the borders, inside what is new.")
]
Repeats = Annotated[
    int, typer.Option("--repeats", min=1, max=100, help="How often each step is taken; the time grows with it.")
]
Loop = Annotated[bool, typer.Option("--loop", help="The end leads to the beginning; one of them must be new.")]


def transform(
    input: Input,
    prompt: PromptArgument = "",
    output: Output = Path("transformed.wav"),
    strength: Annotated[
        float, typer.Option(help="From 0, the music itself, to 1, music that owes nothing to it.")
    ] = 0.8,
    method: Annotated[
        str,
        typer.Option(
            help="noise: add noise and remove it with the prompt. invert: find the noise that the model would make "
            "the music from. edit: follow the difference between two prompts."
        ),
    ] = "noise",
    source_prompt: Annotated[str | None, typer.Option(help="What the music is like now, for invert and edit.")] = None,
    sections_file: SectionsFile = None,
    duration_in_s: Annotated[
        float | None, seconds_option("--duration", "Seconds of the result. [default: those of the input]")
    ] = None,
    negative_prompt: NegativePrompt = None,
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    scheduler: Scheduler = None,
    lora: Lora = None,
    lora_scale: LoraScale = 1.0,
    seed: Seed = None,
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    dtype: Dtype = "float32",
    sample_format: SampleFormat = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    is_json: Json = False,
) -> None:
    """Makes other music of INPUT: a variation, another style, other instruments.

    Settings are stored in the file's tags; `stable-longform info FILE` shows them.
    """
    settings = Settings(
        prompt,
        None if sections_file is None else read_sections(sections_file),
        negative_prompt,
        duration_in_s=duration_in_s,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        lora=lora,
        lora_scale=lora_scale,
        checkpoint=checkpoint,
        dtype=dtype,
    )
    check_range("--strength", strength, 0, 1)
    if strength == 0:
        raise ValueError("--strength must be greater than 0: `stable-longform reconstruct` is what 0 would be.")
    check_choice("--method", method, METHODS)
    if source_prompt is not None and method == "noise":
        raise ValueError("--source-prompt is for --method invert and --method edit.")
    own = {"strength": strength, "method": method, "source_prompt": source_prompt}
    device, settings, _, folder = _check(input, output, settings, seed, device, sample_format, overwrite)

    pipe = _open("LongFormMusicAudioToAudioPipeline", folder, settings, device, seed, quiet)
    settings = fill_in(settings, pipe)
    latents = pipe(
        **_shared_arguments(settings, input),
        **own,
        duration=settings.duration_in_s,
        generator=None if method == "invert" else torch.Generator().manual_seed(settings.seed),
        output_type="latent",
    ).audios[0]
    seconds = settings.duration_in_s or check_file(input).duration_in_s
    values = _values("transform", input, replace(settings, duration_in_s=seconds), own)
    chunks = pipe.stream_latents(latents, seconds)
    report(output, write_music(pipe, chunks, seconds, output, settings.title, values, sample_format, quiet), is_json)


def inpaint(
    input: Input,
    prompt: PromptArgument = "",
    output: Output = Path("inpainted.wav"),
    regions: Annotated[
        list[str] | None,
        typer.Option("--region", metavar="START-STOP", help="Part to make anew, as 0:10-0:15; may be given again."),
    ] = None,
    loop: Loop = False,
    context_in_s: Context = None,
    crossfade_in_s: Crossfade = 0.05,
    num_repeats: Repeats = 3,
    sections_file: SectionsFile = None,
    negative_prompt: NegativePrompt = None,
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    scheduler: Scheduler = None,
    lora: Lora = None,
    lora_scale: LoraScale = 1.0,
    seed: Seed = None,
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    dtype: Dtype = "float32",
    sample_format: SampleFormat = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    is_json: Json = False,
) -> None:
    """Makes parts of INPUT anew and keeps the rest as it is, sample by sample, at the model's rate.

    Settings are stored in the file's tags; `stable-longform info FILE` shows them.
    """
    settings = Settings(
        prompt,
        None if sections_file is None else read_sections(sections_file),
        negative_prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        lora=lora,
        lora_scale=lora_scale,
        checkpoint=checkpoint,
        dtype=dtype,
    )
    if not regions:
        raise ValueError("Give at least one --region START-STOP.")
    own = {
        "regions": [_parse_region(region) for region in regions],
        "loop": loop,
        "context_in_s": context_in_s,
        "crossfade_in_s": crossfade_in_s,
        "num_repeats": num_repeats,
    }
    chosen, settings, info, folder = _check(input, output, settings, seed, device, sample_format, overwrite)
    check_regions(own["regions"], round(info.duration_in_s * info.sampling_rate), info.sampling_rate)
    seconds = info.duration_in_s
    _write_inpainted(
        "inpaint", input, output, folder, settings, own, seconds, seed, chosen, sample_format, quiet, is_json
    )


def extend(
    input: Input,
    prompt: PromptArgument = "",
    output: Output = Path("extended.wav"),
    extend_to: Annotated[
        float | None, seconds_option("--to", "Seconds of the result, up to an hour; music goes on after INPUT.")
    ] = None,
    prepend_in_s: Annotated[float, seconds_option("--prepend", "Seconds of new music before INPUT.")] = 0.0,
    loop: Loop = False,
    context_in_s: Context = None,
    crossfade_in_s: Crossfade = 0.05,
    num_repeats: Repeats = 3,
    sections_file: SectionsFile = None,
    negative_prompt: NegativePrompt = None,
    num_inference_steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    scheduler: Scheduler = None,
    lora: Lora = None,
    lora_scale: LoraScale = 1.0,
    seed: Seed = None,
    checkpoint: Checkpoint = "tiny",
    device: Device = None,
    dtype: Dtype = "float32",
    sample_format: SampleFormat = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    is_json: Json = False,
) -> None:
    """Goes on with INPUT, at its end with --to, at its beginning with --prepend, and keeps it as it is.

    Beyond the model's window the music is sampled in overlapping windows, and decoded as it is written. Settings are
    stored in the file's tags; `stable-longform info FILE` shows them.
    """
    settings = Settings(
        prompt,
        None if sections_file is None else read_sections(sections_file),
        negative_prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        lora=lora,
        lora_scale=lora_scale,
        checkpoint=checkpoint,
        dtype=dtype,
    )
    check_range("--prepend", prepend_in_s, 0, MAX_DURATION_IN_S)
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
    chosen, settings, info, folder = _check(input, output, settings, seed, device, sample_format, overwrite)
    seconds = info.duration_in_s + prepend_in_s
    if extend_to is not None:
        if not seconds < extend_to <= MAX_DURATION_IN_S:
            raise ValueError(f"--to must be in ({seconds:g}, {MAX_DURATION_IN_S:g}] seconds, got {extend_to:g}.")
        seconds = extend_to
    _write_inpainted(
        "extend", input, output, folder, settings, own, seconds, seed, chosen, sample_format, quiet, is_json
    )


def _check(
    input: Path,
    output: Path,
    settings: Settings,
    seed: int | None,
    device: str | None,
    sample_format: str | None,
    overwrite: bool,
) -> tuple[torch.device, Settings, AudioInfo, str]:
    """Checks what can be checked before a model is loaded.

    Returns:
        The device, the settings with their seed, what the input's header says, and the checkpoint's folder or Hub id.
    """
    settings = replace(settings, seed=secrets.randbelow(MAX_RANDOM_SEED + 1) if seed is None else seed)
    if settings.sections is not None and settings.prompt:
        raise ValueError("Give either PROMPT or --sections.")
    settings.check()
    info = check_file(input)
    if output.resolve() == input.resolve():
        raise ValueError(f"{output} is the input: choose another output.")
    chosen = check_device(device)
    check_outputs([output], sample_format, overwrite)
    folder = resolve_checkpoint(settings.checkpoint)
    if settings.lora is not None:
        require("peft", "train")
    return chosen, settings, info, folder


def _open(name: str, folder: str, settings: Settings, device: torch.device, seed: int | None, quiet: bool):
    """The pipeline of a public class."""
    shared = open_pipeline(folder, settings, device, quiet)
    pipe = getattr(stable_longform, name).from_pipe(shared)
    pipe.set_progress_bar_config(desc="sampling", disable=quiet)
    if seed is None:
        note(f"seed: {settings.seed}", quiet)
    return pipe


def _shared_arguments(settings: Settings, input: Path) -> dict:
    """Arguments of every pipeline that starts from audio."""
    names = ("negative_prompt", "num_inference_steps", "guidance_scale")
    return {"prompt": settings.sections or settings.prompt, "audio": input} | {
        name: getattr(settings, name) for name in names
    }


def _values(command: str, input: Path, settings: Settings, own: dict) -> dict:
    """What the tags say: the command, its input and every setting that is not its default."""
    given = {name: value for name, value in own.items() if value is not None}
    return {"command": command, "input": input.name} | settings.to_dict() | given


def _parse_region(text: str) -> tuple[float, float]:
    """`0:10-0:15` as seconds."""
    start, dash, stop = text.partition("-")
    if not dash:
        raise ValueError(f"--region must be START-STOP, as 0:10-0:15, got {text!r}.")
    return parse_seconds(start), parse_seconds(stop)


def _write_inpainted(
    command: str,
    input: Path,
    output: Path,
    folder: str,
    settings: Settings,
    own: dict,
    duration_in_s: float,
    seed: int | None,
    device: torch.device,
    sample_format: str | None,
    quiet: bool,
    is_json: bool,
) -> None:
    """Runs the inpainting pipeline and writes its result as it is decoded."""
    for name, option in (("context_in_s", "--context"), ("extend_to", "--to")):
        if own.get(name) is not None:
            check_seconds(option, own[name])
    pipe = _open("LongFormMusicInpaintPipeline", folder, settings, device, seed, quiet)
    settings = fill_in(settings, pipe)
    generator = torch.Generator().manual_seed(settings.seed)
    arguments = _shared_arguments(settings, input) | own
    chunks = pipe(**arguments, generator=generator, output_type="stream").audios[0]
    values = _values(command, input, replace(settings, duration_in_s=duration_in_s), own)
    made = write_music(pipe, chunks, duration_in_s, output, settings.title, values, sample_format, quiet)
    report(output, made, is_json)
