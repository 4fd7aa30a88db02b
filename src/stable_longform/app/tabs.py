"""What the tabs of the app do: a tour of the pipelines.

The first three functions make music. The others turn the controls of a tab, as people fill them in, into arguments for
one of the three; what cannot be used is a ValueError, whose message the page shows.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stable_longform.app.studio import Make
from stable_longform.app.uploads import check_upload
from stable_longform.pipelines.inputs import check_number
from stable_longform.pipelines.pieces import check_edit
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.pipelines.pipeline_longform_music_audio_to_audio import LongFormMusicAudioToAudioPipeline
from stable_longform.pipelines.pipeline_longform_music_inpaint import LongFormMusicInpaintPipeline
from stable_longform.utils.accepted_values import MAX_SEED
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.files import file_sha256
from stable_longform.utils.ranges import Range
from stable_longform.utils.seeding import draw_seed
from stable_longform.utils.timecodes import SECONDS, parse_region, parse_seconds, parse_sections

MAX_RESULT_IN_S = 900.0
PLACES, DURATIONS = Range(0, MAX_RESULT_IN_S), Range(SECONDS.low, MAX_RESULT_IN_S)

Region = tuple[float, float]


# --- making music; `open_pipeline` is `pipeline_class.from_pipe(pipe)`, with progress


def text_to_music(open_pipeline, prompt, duration: float, **settings) -> Iterator[torch.Tensor]:
    """Generates music from a prompt, or from sections `[(start in seconds, prompt), ...]`."""
    pipe = open_pipeline(LongFormMusicPipeline)
    latents = pipe(prompt, duration, output_type="latent", **settings).audios[0]
    yield from pipe.stream_latents(latents, duration)


def transform(open_pipeline, prompt: str, audio: str, duration: float, **settings) -> Iterator[torch.Tensor]:
    """Transforms a recording."""
    pipe = open_pipeline(LongFormMusicAudioToAudioPipeline)
    latents = pipe(prompt, audio, output_type="latent", **settings).audios[0]
    yield from pipe.stream_latents(latents, duration)


def inpaint(open_pipeline, prompt: str, audio: str, **settings) -> Iterator[torch.Tensor]:
    """Replaces regions of a recording, or, with `extend_to` and `prepend_in_s`, adds music around it."""
    pipe = open_pipeline(LongFormMusicInpaintPipeline)
    yield from pipe(prompt, audio, output_type="stream", **settings).audios[0]


# --- what is asked for


@dataclass(frozen=True)
class MusicRequest:
    """A request for music.

    Args:
        make: takes a function that opens a pipeline class, and yields decoded chunks.
        made: the settings for the tags of the file.
        title: of the music.
        regions: new parts of the result, in seconds, to be marked.
        duration_in_s: of the result.
    """

    make: Make
    made: dict
    title: str
    regions: list[Region]
    duration_in_s: float


def read_request(pipe: LongFormMusicPipeline, checkpoint: str, tab: str, controls: Mapping[str, Any]) -> MusicRequest:
    """Reads the controls of a tab and those that all tabs share.

    Args:
        pipe: the pipeline that the others are made from.
        checkpoint: its name, for the tags.
        tab: a key of `TABS`.
        controls: values by the names of the arguments; an empty field is "" or None.

    Raises:
        ValueError: a value cannot be used.
    """
    controls = {name: "" if value is None else value for name, value in controls.items()}
    if any("\0" in value for value in controls.values() if isinstance(value, str)):
        raise ValueError("Texts must not have NUL characters.")  # no tag can hold them
    seed, prompt = parse_seed(controls["seed"]), controls.get("prompt", "").strip()
    settings: dict[str, Any] = {
        "negative_prompt": controls["negative_prompt"].strip() or None,
        "num_inference_steps": int(check_number("Steps", controls["num_inference_steps"])),
        "guidance_scale": check_number("Guidance", controls["guidance_scale"]),
    }
    made = {"prompt": prompt, "seed": seed, "checkpoint": checkpoint, "dtype": _dtype(pipe)}
    arguments: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed)}
    info = None
    if "audio" in controls:
        path = controls["audio"]
        info, _ = check_upload(path)
        made |= {"command": tab, "input": Path(path).name, "input_sha256": file_sha256(path)}
        arguments["audio"] = path
    make, read_own = TABS[tab]
    own, regions, duration = read_own(controls, info, pipe.max_duration_in_s)
    settings |= own
    made |= settings | {"duration_in_s": duration}
    sections = settings.pop("sections", None)
    arguments |= settings | {"prompt": sections or prompt}
    if make is not inpaint:
        arguments["duration"] = duration
    title = prompt or " / ".join(text for _, text in sections or ())
    return MusicRequest(functools.partial(make, **arguments), made, title, regions, duration)


# --- the controls of each tab, to the arguments of its own, the new regions, and the duration of the result in seconds


def _read_text(controls: Mapping[str, Any], info: None, window_in_s: float) -> tuple[dict, list[Region], float]:
    """One prompt, which all tabs have, or sections."""
    duration = parse_duration("Duration", controls["duration_in_s"])
    if duration > window_in_s:
        raise ValueError(f"Duration must be at most {window_in_s:g} seconds, got {duration:g}.")
    if "sections" not in controls:
        return {}, [], duration
    sections = parse_sections(controls["sections"], "Sections")
    if not sections:
        raise ValueError("Sections: enter at least one line, for example 0:00 piano.")
    return {"sections": sections}, [], duration


def _read_transform(
    controls: Mapping[str, Any], info: AudioInfo, window_in_s: float
) -> tuple[dict, list[Region], float]:
    """The method; the result is as long as the upload."""
    duration = info.duration_in_s
    if duration > window_in_s:
        raise ValueError(f"Music to transform must be at most {window_in_s:g} s long, got {duration:g} s.")
    own = {"strength": check_number("Strength", controls["strength"]), "method": controls["method"]}
    if own["method"] != "noise":
        own["source_prompt"] = controls["source_prompt"].strip() or None
    return own, [], duration


def _read_regions(
    controls: Mapping[str, Any], info: AudioInfo, window_in_s: float
) -> tuple[dict, list[Region], float]:
    """Regions, and whether the end continues into the start."""
    regions, loop = parse_regions(controls["regions"]), bool(controls["loop"])
    if not regions:
        raise ValueError("Mark a region on the waveform, or type it, for example 0:10-0:15.")
    return {"regions": regions, "loop": loop}, *check_edit(info, regions, loop=loop)


def _read_extension(
    controls: Mapping[str, Any], info: AudioInfo, window_in_s: float
) -> tuple[dict, list[Region], float]:
    """How much is added at the end and at the start."""
    extend_to, before = controls["extend_to"].strip(), controls["prepend_in_s"].strip()
    if not (extend_to or before):
        raise ValueError("Enter a total duration, seconds before, or both.")
    own: dict[str, Any] = {
        "extend_to": parse_duration("Total duration", extend_to) if extend_to else None,
        "prepend_in_s": parse_duration("Seconds before", before or "0", PLACES),
        "loop": bool(controls["loop"]),
    }
    names = ("Total duration", "Seconds before")
    return own, *check_edit(info, **own, names=names, max_duration_in_s=MAX_RESULT_IN_S)


TABS: dict[str, tuple[Callable, Callable]] = {
    "generate": (text_to_music, _read_text),
    "transform": (transform, _read_transform),
    "inpaint": (inpaint, _read_regions),
    "extend": (inpaint, _read_extension),
    "sections": (text_to_music, _read_text),
}


# --- texts to values


def parse_regions(text: str) -> list[Region]:
    """Parses regions such as `0:10-0:15, 0:20-0:21` to seconds."""
    try:
        return [parse_region(part.strip(), PLACES) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"Regions: {error}") from error


def format_regions(regions: list) -> str:
    """The inverse of `parse_regions`, in seconds."""
    return ", ".join(f"{start:g}-{stop:g}" for start, stop in regions)


def parse_duration(name: str, text: str, accepted: Range = DURATIONS) -> float:
    """Parses a duration such as `1:30` to seconds."""
    try:
        return parse_seconds(text, accepted)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def parse_seed(text: str) -> int:
    """Parses a seed; an empty text gives a random one."""
    if not text.strip():
        return draw_seed()
    if not text.strip().isdecimal() or int(text) > MAX_SEED:
        raise ValueError(f"Seed must be a whole number in [0, {MAX_SEED}], got {text!r}.")
    return int(text)


def _dtype(pipe: LongFormMusicPipeline) -> str:
    return str(pipe.transformer.dtype).removeprefix("torch.")
