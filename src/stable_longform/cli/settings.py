"""The settings of a piece of music, stored in the tags of its file so that it can be made again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import typer

from stable_longform.cli.options import (
    MAX_LORA_SCALE,
    check_count,
    check_range,
    check_seconds,
    check_text,
)
from stable_longform.music_files import read_values
from stable_longform.utils.accepted_values import (
    DTYPES,
    MAX_GUIDANCE_SCALE,
    MAX_SEED,
    MAX_STEPS,
    SCHEDULER_NAMES,
)
from stable_longform.utils.ranges import check_choice
from stable_longform.utils.text_files import read_text
from stable_longform.utils.timecodes import parse_sections

# Omitted from the tags if they have these values; all other settings are always included.
OPTIONAL = (
    "sections",
    "guidance_interval",
    "seconds_start",
    "seconds_total",
    "window_in_s",
    "scheduler",
    "lora",
    "lora_scale",
)


@dataclass(frozen=True)
class Settings:
    """Everything that determines a generation; the names are those in the file's tags.

    If steps and guidance scale are None, the checkpoint's defaults apply. In the tags they are always numbers.
    """

    prompt: str = ""
    sections: list[list] | None = None
    negative_prompt: str | None = None
    seed: int = 0
    duration_in_s: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    seconds_start: float = 0.0
    seconds_total: float | None = None
    window_in_s: float | None = None
    scheduler: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    checkpoint: str = "tiny"
    dtype: str = "float32"

    def check(self) -> None:
        """Raises a ValueError for values that no model accepts."""
        check_text("PROMPT", self.prompt)
        if self.sections is not None:
            _check_sections(self.sections)
        check_text("--negative-prompt", self.negative_prompt or "")
        check_count("--seed", self.seed, 0, MAX_SEED)
        for name in ("duration", "total", "window"):
            value = {"duration": self.duration_in_s, "total": self.seconds_total, "window": self.window_in_s}[name]
            if value is not None:
                check_seconds(f"--{name}", value)
        check_range("--start", self.seconds_start, 0, 1e6)
        if self.num_inference_steps is not None:
            check_count("--steps", self.num_inference_steps, 1, MAX_STEPS)
        if self.guidance_scale is not None:
            check_range("--guidance-scale", self.guidance_scale, -MAX_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE)
        check_range("--guidance-rescale", self.guidance_rescale, 0, 1)
        if self.guidance_interval is not None:
            for time in self.guidance_interval:
                check_range("--guidance-interval", time, 0, 1)
            if len(self.guidance_interval) != 2 or self.guidance_interval[0] > self.guidance_interval[1]:
                raise ValueError(f"--guidance-interval must be two rising times, got {self.guidance_interval}.")
        if self.scheduler is not None:
            check_choice("--scheduler", self.scheduler, SCHEDULER_NAMES)
        if self.lora is not None:
            check_text("--lora", self.lora)
        check_range("--lora-scale", self.lora_scale, -MAX_LORA_SCALE, MAX_LORA_SCALE)
        check_text("--checkpoint", self.checkpoint)
        check_choice("--dtype", self.dtype, DTYPES)

    @property
    def title(self) -> str:
        """The prompt, or the prompts of the sections, in one line."""
        return self.prompt or " / ".join(text for _, text in self.sections or ())

    def to_dict(self) -> dict:
        """For tags and JSON, without unused settings."""
        defaults = asdict(Settings())
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value != defaults[name]}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Settings":
        """From tags; their other entries, which describe the result, are ignored."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


def _check_sections(sections: list[list]) -> None:
    """Raises a ValueError unless these are pairs of seconds, rising from 0, and text."""
    if not isinstance(sections, list) or not sections:
        raise ValueError(f"--sections must hold at least one section, got {sections!r}.")
    previous = None
    for start, text in sections:
        check_text("A section", text)
        check_range("The start of a section", start, 0, 1e6)
        if start != 0 if previous is None else start <= previous:
            raise ValueError(f"Sections must start at 0 s and rise, got {', '.join(f'{s:g}' for s, _ in sections)}.")
        previous = start


def read_sections(path: Path) -> list[list]:
    """Sections from a text file, `[start in seconds, prompt]` each; a line is `0:30 chorus, full band`.

    Raises:
        ValueError: a line is not a section, or the file is not text.
    """
    sections = parse_sections(read_text(path), str(path))
    _check_sections(sections)
    return sections


def read_stored(path: Path, command: str) -> dict:
    """Reads the tags of a file that this command made.

    Raises:
        ValueError: the file cannot be read, or was not made by the command.
    """
    values = read_values(path)
    if values is None or "prompt" not in values:
        raise ValueError(f"{path} has no settings in its tags: it was not made by `stable-longform {command}`.")
    made_by = values.get("command", "generate")
    if made_by != command:
        raise ValueError(f"{path} was made by `stable-longform {made_by}`, not {command}: give it to that command.")
    return values


def settings_from_tags(values: Mapping, path: Path) -> Settings:
    """The settings in the result of `read_stored`; a ValueError names the path if they are not valid."""
    settings = Settings.from_dict(values)
    if isinstance(settings.guidance_interval, list):
        settings = replace(settings, guidance_interval=tuple(settings.guidance_interval))
    try:
        settings.check()
    except (TypeError, ValueError) as error:
        raise ValueError(f"The tags of {path} cannot be used: {error}") from error
    return settings


def given_settings(context: typer.Context, is_new: bool) -> dict:
    """The settings on the command line; for new music also those of the environment."""
    sources = ("COMMANDLINE", "ENVIRONMENT") if is_new else ("COMMANDLINE",)
    names = {field.name for field in fields(Settings)} & context.params.keys()
    return {name: context.params[name] for name in names if source_of(context, name) in sources}


def source_of(context: typer.Context, name: str) -> str:
    """Where the value of an option is from, such as "COMMANDLINE" or "DEFAULT"."""
    source = context.get_parameter_source(name)
    return "" if source is None else source.name
