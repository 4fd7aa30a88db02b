"""Shared options of the commands, and checks of their values; errors name the value and what is accepted."""

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from stable_longform.utils.accepted_values import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS, SCHEDULER_NAMES
from stable_longform.utils.files import check_output_folder
from stable_longform.utils.ranges import Range, shown
from stable_longform.utils.timecodes import SECONDS, parse_seconds

MAX_LORA_SCALE = 10.0
MAX_COUNT = 10**6
CHECKPOINT_VARIABLE, DEVICE_VARIABLE = "STABLE_LONGFORM_CHECKPOINT", "STABLE_LONGFORM_DEVICE"


def _parse_option(text: str | float, accepted: Range) -> float:
    """`parse_seconds`, with typer's error."""
    try:
        return parse_seconds(text, accepted)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def seconds_option(name: str, help: str, accepted: Range = SECONDS) -> typer.models.OptionInfo:
    """An option in seconds."""
    parser = functools.partial(_parse_option, accepted=accepted)
    parser.__dict__["__name__"] = "seconds"  # which typer asks for
    return typer.Option(name, parser=parser, metavar="SECONDS", help=help)


def _check_folder(folder: Path | None) -> Path | None:
    """A callback for options with an output folder."""
    if folder is not None:
        check_output_folder(folder)
    return folder


def folder_option(help: str) -> typer.models.OptionInfo:
    """The option `-o` of a command that writes to a folder, which is checked before any work is done."""
    return typer.Option("-o", "--output", callback=_check_folder, help=help)


def require_finite(context: typer.Context, parameter, value):
    """A callback for numeric options: typer's ranges accept NaN and, with an open end, infinity."""
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise typer.BadParameter(f"must be finite, got {number}.", ctx=context, param=parameter)
    return value


Checkpoint = Annotated[
    str,
    typer.Option(
        envvar=CHECKPOINT_VARIABLE,
        help="Folder or Hugging Face Hub id of the model; 'tiny' is the one inside the package.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(envvar=DEVICE_VARIABLE, help="cpu, cuda, cuda:1, mps ... [default: the GPU if there is one]"),
]
SampleFormat = Annotated[
    str | None,
    typer.Option(
        help="pcm16, pcm24 or float for wav, pcm16 or pcm24 for flac; other formats have one each. "
        "[default: pcm16 for wav, pcm24 for flac]"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no remarks, only errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line, instead of text.")]


NegativePrompt = Annotated[str | None, typer.Option(help="What the music should not sound like.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, max=MAX_STEPS, help="Sampling steps. [default: the checkpoint's]")
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        min=-MAX_GUIDANCE_SCALE,
        max=MAX_GUIDANCE_SCALE,
        help="How strongly the prompt is followed; 1 switches guidance off. [default: the checkpoint's]",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(SCHEDULER_NAMES[:-1])} or {SCHEDULER_NAMES[-1]}. [default: the checkpoint's]"),
]
Lora = Annotated[
    str | None,
    typer.Option(help="Folder, file or Hub id of a LoRA adapter; 'tiny-8-steps' is the one inside the package."),
]
LoraScale = Annotated[float, typer.Option(min=-MAX_LORA_SCALE, max=MAX_LORA_SCALE, help="Strength of the adapter.")]
Seed = Annotated[
    int | None, typer.Option(min=0, max=MAX_SEED, help="Seed of the noise. [default: random, printed at the start]")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of transformer and text encoder: float32, bfloat16 or float16. "
        "The autoencoder always uses float32."
    ),
]
SectionsFile = Annotated[
    Path | None,
    typer.Option(
        "--sections",
        help="UTF-8 text file, a section on each line as '0:30 chorus, full band', instead of PROMPT; "
        "the first starts at 0.",
    ),
]
# Options of every command that makes music, with their defaults.
MUSIC_OPTIONS = {
    "sections_file": (SectionsFile, None),
    "negative_prompt": (NegativePrompt, None),
    "num_inference_steps": (Steps, None),
    "guidance_scale": (GuidanceScale, None),
    "scheduler": (Scheduler, None),
    "lora": (Lora, None),
    "lora_scale": (LoraScale, 1.0),
    "seed": (Seed, None),
    "checkpoint": (Checkpoint, "tiny"),
    "device": (Device, None),
    "dtype": (Dtype, "float32"),
    "sample_format": (SampleFormat, None),
    "overwrite": (Overwrite, False),
    "quiet": (Quiet, False),
    "is_json": (Json, False),
}


def with_music_options(command: Callable) -> Callable:
    """Adds the `MUSIC_OPTIONS` to a command after its own; their values are in `context.params`."""
    own = inspect.signature(command).parameters
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in MUSIC_OPTIONS.items()
    ]

    @functools.wraps(command)
    def call(**arguments):
        return command(**{name: arguments[name] for name in own})

    call.__dict__["__signature__"] = inspect.Signature([*own.values(), *added])
    call.__annotations__ = command.__annotations__ | {option.name: option.annotation for option in added}
    return call


def check_device(name: str | None) -> torch.device:
    """The device with this name, or the best one for None; raises a ValueError if the machine does not have it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    counts = {"cpu": 1} | ({accelerator.type: torch.accelerator.device_count()} if accelerator else {})
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is not the name of a device; here: {', '.join(counts)}.") from error
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ValueError(f"--device {name!r} is not available; here: {', '.join(counts)}.")
    return device


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises a ValueError unless the value is a number in [`low`, `high`]."""
    accepted = Range(low, high)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number {accepted}, got {shown(value)}.")
    if value not in accepted:
        raise ValueError(f"{name} must be {accepted}, got {shown(value)}.")


def check_count(name: str, value: int, low: int, high: int) -> None:
    """Raises a ValueError unless the value is a whole number in [`low`, `high`]."""
    if not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    check_range(name, value, low, high)


def check_seconds(name: str, value: float) -> None:
    """Raises a ValueError unless the value is a number of `SECONDS`."""
    if value not in SECONDS:
        raise ValueError(f"{name} must be a number of seconds {SECONDS}, got {value!r}.")


def check_text(name: str, text: str) -> None:
    """Raises a ValueError unless the text is valid Unicode that a tag can hold."""
    if not isinstance(text, str) or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} must be valid text, got {text!r}.")
