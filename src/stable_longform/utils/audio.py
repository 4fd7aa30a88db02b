"""Reading, writing and resampling audio. Nothing else in the package touches audio files.

Conventions: a waveform is a float32 tensor of shape `(channels, num_samples)` with values in [-1, 1]; rates are in
Hz; times are in seconds. Decoding and encoding are libsndfile's (soundfile), resampling is soxr's.
"""

import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch

from stable_longform.utils.files import atomic_path

# libsndfile subtype for each extension and sample format that we write.
SUBTYPES = {
    ".wav": {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"},
    ".flac": {"pcm16": "PCM_16", "pcm24": "PCM_24"},
    ".ogg": {"vorbis": "VORBIS"},
}
DEFAULT_SAMPLE_FORMAT = {".wav": "pcm16", ".flac": "pcm24", ".ogg": "vorbis"}
TAG_NAMES = ("title", "artist", "comment", "software", "album", "license", "date", "genre")
# wav has no licence tag in libsndfile; RIFF's copyright field takes its place.
WAV_TAG_NAMES = {"license": "copyright"}
READ_BLOCK = 2**18  # frames read at a time
# Frames written at a time: libsndfile's vorbis encoder overflows the stack when it is given minutes at once.
WRITE_BLOCK = 65536


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says; rate in Hz. `encoding` is libsndfile's name of format and subtype."""

    duration_in_s: float
    sampling_rate: int
    channels: int
    encoding: str


def read_info(path: str | os.PathLike | BinaryIO) -> AudioInfo:
    """Reads the header of an audio file, of a path or of an open binary file.

    Raises:
        ValueError: the file cannot be decoded.
    """
    try:
        with soundfile.SoundFile(path) as file:
            duration_in_s = file.frames / file.samplerate
            return AudioInfo(duration_in_s, file.samplerate, file.channels, f"{file.format}/{file.subtype}")
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{_name(path)} cannot be read as audio: {error}") from error


def read_audio(
    path: str | os.PathLike | BinaryIO,
    start_in_s: float = 0.0,
    duration_in_s: float | None = None,
    sampling_rate: int | None = None,
) -> tuple[torch.Tensor, int]:
    """Reads a file, or only the part of it that is asked for.

    Args:
        path: any format that libsndfile decodes (wav, flac, ogg vorbis, opus, mp3 ...); a path, or a binary file that
            can seek.
        start_in_s: first second to read, in [0, file duration).
        duration_in_s: seconds to read, > 0; None reads to the end. Less is returned when the file ends earlier.
        sampling_rate: rate in Hz of the returned waveform; None keeps the file's own.

    Returns:
        `(waveform, sampling_rate)`: float32 `(channels, num_samples)` and its rate in Hz.

    Raises:
        ValueError: the file cannot be decoded, `start_in_s` lies outside it, or `duration_in_s` is not positive and
            finite.
    """
    if duration_in_s is not None and not 0 < duration_in_s < math.inf:
        raise ValueError(f"duration_in_s must be greater than 0 and finite, got {duration_in_s}.")
    if not math.isfinite(start_in_s):
        raise ValueError(f"start_in_s must be finite, got {start_in_s}.")
    try:
        with soundfile.SoundFile(path) as file:
            start, end_in_s = round(start_in_s * file.samplerate), file.frames / file.samplerate
            if not 0 <= start < max(file.frames, 1):
                raise ValueError(f"start_in_s must be in [0, {end_in_s:.3f}) for {_name(path)}, got {start_in_s}.")
            file.seek(start)
            num_frames = -1 if duration_in_s is None else round(duration_in_s * file.samplerate)
            samples, file_rate = file.read(num_frames, dtype="float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{_name(path)} cannot be read as audio: {error}") from error
    waveform = torch.from_numpy(np.ascontiguousarray(samples.T))
    if sampling_rate is not None:
        waveform, file_rate = resample(waveform, file_rate, sampling_rate), sampling_rate
    return waveform, file_rate


def read_blocks(path: str | os.PathLike, sampling_rate: int | None = None) -> Iterator[torch.Tensor]:
    """Reads a file block by block, in constant memory; together the blocks are what `read_audio` returns.

    Args:
        path: as in `read_audio`.
        sampling_rate: rate in Hz of the blocks; None keeps the file's own.

    Yields:
        float32 `(channels, n)` with n >= 1.

    Raises:
        ValueError: the file cannot be decoded, or `sampling_rate` is not greater than 0.
    """
    if sampling_rate is not None and sampling_rate <= 0:
        raise ValueError(f"sampling_rate must be greater than 0 Hz, got {sampling_rate}.")
    try:
        with soundfile.SoundFile(path) as file:
            resampler = None
            if sampling_rate not in (None, file.samplerate):
                resampler = soxr.ResampleStream(file.samplerate, sampling_rate, file.channels, quality="HQ")
            is_last = False
            while not is_last:
                samples = file.read(READ_BLOCK, dtype="float32", always_2d=True)
                is_last = len(samples) < READ_BLOCK
                if resampler is not None:
                    samples = resampler.resample_chunk(samples, last=is_last)
                if len(samples) > 0:
                    yield torch.from_numpy(np.ascontiguousarray(samples.T))
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error


def resample(waveform: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resamples `(channels, num_samples)` from `from_rate` to `to_rate` Hz (soxr, high quality)."""
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"Sampling rates must be greater than 0 Hz, got {from_rate} and {to_rate}.")
    if from_rate == to_rate:
        return waveform
    resampled = soxr.resample(waveform.T.contiguous().numpy(), from_rate, to_rate, quality="HQ")
    return torch.from_numpy(np.ascontiguousarray(resampled.T))


def to_stereo(waveform: torch.Tensor) -> torch.Tensor:
    """Gives `(2, num_samples)`: mono is duplicated, stereo returned as it is.

    Raises:
        ValueError: the waveform is not `(1 or 2, num_samples)`.
    """
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
        raise ValueError(f"waveform must be (1 or 2 channels, num_samples), got shape {tuple(waveform.shape)}.")
    return waveform.expand(2, -1) if waveform.shape[0] == 1 else waveform


def check_output_path(path: str | os.PathLike, sample_format: str | None = None) -> str:
    """Checks, before any work is done, that `path` can be written; returns the libsndfile subtype.

    Raises:
        ValueError: unknown extension or sample format, missing or unwritable folder, or a folder in the file's place.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in SUBTYPES:
        raise ValueError(f"{path}: the extension must be one of {', '.join(SUBTYPES)}, got {extension!r}.")
    sample_format = sample_format or DEFAULT_SAMPLE_FORMAT[extension]
    if sample_format not in SUBTYPES[extension]:
        accepted = ", ".join(SUBTYPES[extension])
        raise ValueError(f"sample_format for {extension} must be one of {accepted}, got {sample_format!r}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file name.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be written: the folder {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written: no permission to write in {folder}.")
    return SUBTYPES[extension][sample_format]


def write_audio(
    path: str | os.PathLike,
    waveform: torch.Tensor | Iterable[torch.Tensor],
    sampling_rate: int,
    sample_format: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes a waveform, or its consecutive chunks as they come, to one file; the file appears only when complete.

    Args:
        path: `.wav`, `.flac` or `.ogg`.
        waveform: `(channels, num_samples)`, or an iterable of such chunks. Values beyond [-1, 1] are clipped by the
            integer formats and kept by "float" and "vorbis".
        sampling_rate: Hz, a whole number > 0.
        sample_format: "pcm16", "pcm24" or "float" for wav; "pcm16" or "pcm24" for flac; "vorbis" for ogg.
        tags: text for the file's tags; names from `TAG_NAMES`. libsndfile adds its own name to `software`.

    Raises:
        ValueError: see `check_output_path`; also a tag with an unknown name or no text, a rate that is not a whole
            number > 0, chunks that are not `(channels, num_samples)` with the same channels, or no samples at all.
    """
    subtype = check_output_path(path, sample_format)
    _check_tags(tags or {})
    if not isinstance(sampling_rate, int) or sampling_rate <= 0:
        raise ValueError(f"sampling_rate must be a whole number of Hz greater than 0, got {sampling_rate!r}.")
    chunks = iter([waveform] if isinstance(waveform, torch.Tensor) else waveform)
    first = next(chunks, None)
    if first is None:
        raise ValueError("waveform holds no chunk to write.")
    if first.ndim != 2:
        raise ValueError(f"waveform must be (channels, num_samples), got shape {tuple(first.shape)}.")
    with (
        atomic_path(path) as temporary,
        soundfile.SoundFile(
            temporary, "w", samplerate=sampling_rate, channels=first.shape[0], subtype=subtype
        ) as file,
    ):
        for name, text in (tags or {}).items():
            setattr(file, WAV_TAG_NAMES.get(name, name) if file.format == "WAV" else name, text)
        for chunk in itertools.chain([first], chunks):
            if chunk.ndim != 2 or chunk.shape[0] != file.channels:
                raise ValueError(
                    f"Every chunk must be ({file.channels} channels, num_samples), got shape {tuple(chunk.shape)}."
                )
            for block in chunk.split(WRITE_BLOCK, dim=1):
                file.write(_to_frames(block, is_clipped=subtype.startswith("PCM")))
        if file.frames == 0:
            raise ValueError("waveform holds no samples to write.")


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """Reads the text tags of an audio file, those of `TAG_NAMES` that are set.

    Raises:
        ValueError: the file cannot be decoded.
    """
    try:
        with soundfile.SoundFile(path) as file:
            metadata, is_wav = file.copy_metadata(), file.format == "WAV"
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    names = {name: WAV_TAG_NAMES.get(name, name) if is_wav else name for name in TAG_NAMES}
    return {name: metadata[stored] for name, stored in names.items() if stored in metadata}


@contextlib.contextmanager
def stored(
    chunks: Iterable[torch.Tensor], folder: str | os.PathLike
) -> Iterator[tuple[Iterator[torch.Tensor], float]]:
    """Keeps chunks in a temporary file in `folder` until their peak is known; gives them again, and the peak.

    Args:
        chunks: `(channels, num_samples)` each, kept in float32. They are consumed on entry.
        folder: with room for them.
    """
    with tempfile.TemporaryFile(prefix=".chunks", dir=folder) as file:
        peak, shapes = 0.0, []
        for chunk in chunks:
            chunk = chunk.detach().to("cpu", torch.float32).contiguous()
            file.write(chunk.numpy())
            peak = max(peak, chunk.abs().max().item())
            shapes.append(tuple(chunk.shape))
        file.seek(0)
        values = (np.fromfile(file, np.float32, math.prod(shape)).reshape(shape) for shape in shapes)
        yield (torch.from_numpy(value) for value in values), peak


def _name(path: str | os.PathLike | BinaryIO) -> str | os.PathLike:
    """What errors call a file."""
    return path if isinstance(path, (str, os.PathLike)) else "the data"


def _check_tags(tags: Mapping[str, str]) -> None:
    """Checks that every tag has a known name and some text."""
    unknown = sorted(set(tags) - set(TAG_NAMES))
    if unknown:
        raise ValueError(f"Tag names must be among {', '.join(TAG_NAMES)}, got {', '.join(unknown)}.")
    for name, text in tags.items():
        if not isinstance(text, str) or not text:
            raise ValueError(f"The tag {name} must be text that is not empty, got {text!r}.")


def _to_frames(waveform: torch.Tensor, is_clipped: bool) -> np.ndarray:
    """`(channels, num_samples)` on any device and dtype to libsndfile's `(num_samples, channels)` float32."""
    samples = waveform.detach().to("cpu", torch.float32)
    return (samples.clamp(-1, 1) if is_clipped else samples).T.contiguous().numpy()
