"""Reading, writing and resampling audio. Nothing else in the package touches audio files.

Conventions: a waveform is a float32 tensor of shape `(channels, num_samples)` with values in [-1, 1]; rates are in
Hz; times are in seconds. Decoding and encoding are libsndfile's (soundfile), resampling is soxr's.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

# libsndfile subtype for each extension and sample format that we write.
SUBTYPES = {
    ".wav": {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"},
    ".flac": {"pcm16": "PCM_16", "pcm24": "PCM_24"},
    ".ogg": {"vorbis": "VORBIS"},
}
DEFAULT_SAMPLE_FORMAT = {".wav": "pcm16", ".flac": "pcm24", ".ogg": "vorbis"}
TAG_NAMES = ("title", "artist", "comment", "software", "album", "license", "date", "genre")


def read_audio(
    path: str | os.PathLike,
    start_in_s: float = 0.0,
    duration_in_s: float | None = None,
    sampling_rate: int | None = None,
) -> tuple[torch.Tensor, int]:
    """Reads a file, or only the part of it that is asked for.

    Args:
        path: any format that libsndfile decodes (wav, flac, ogg vorbis, opus, mp3 ...).
        start_in_s: first second to read, in [0, file duration).
        duration_in_s: seconds to read, > 0; None reads to the end. Less is returned when the file ends earlier.
        sampling_rate: rate in Hz of the returned waveform; None keeps the file's own.

    Returns:
        `(waveform, sampling_rate)`: float32 `(channels, num_samples)` and its rate in Hz.

    Raises:
        ValueError: the file cannot be decoded, `start_in_s` lies outside it or `duration_in_s` is not positive.
    """
    if duration_in_s is not None and not duration_in_s > 0:
        raise ValueError(f"duration_in_s must be greater than 0, got {duration_in_s}.")
    try:
        with soundfile.SoundFile(path) as file:
            start = round(start_in_s * file.samplerate)
            if not 0 <= start < max(file.frames, 1):
                raise ValueError(
                    f"start_in_s must be in [0, {file.frames / file.samplerate:.3f}) for {path}, got {start_in_s}."
                )
            file.seek(start)
            num_frames = -1 if duration_in_s is None else round(duration_in_s * file.samplerate)
            samples, file_rate = file.read(num_frames, dtype="float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    waveform = torch.from_numpy(np.ascontiguousarray(samples.T))
    if sampling_rate is not None:
        waveform, file_rate = resample(waveform, file_rate, sampling_rate), sampling_rate
    return waveform, file_rate


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
            integer formats.
        sampling_rate: Hz.
        sample_format: "pcm16", "pcm24" or "float" for wav; "pcm16" or "pcm24" for flac; "vorbis" for ogg.
        tags: text for the file's tags; names from `TAG_NAMES`.

    Raises:
        ValueError: see `check_output_path`; also an unknown tag name or no samples.
    """
    subtype = check_output_path(path, sample_format)
    unknown = sorted(set(tags or {}) - set(TAG_NAMES))
    if unknown:
        raise ValueError(f"Tag names must be among {', '.join(TAG_NAMES)}, got {', '.join(unknown)}.")
    chunks = iter([waveform] if isinstance(waveform, torch.Tensor) else waveform)
    first = next(chunks, None)
    if first is None:
        raise ValueError("waveform holds no chunk to write.")
    with (
        atomic_path(path) as temporary,
        soundfile.SoundFile(
            temporary, "w", samplerate=sampling_rate, channels=first.shape[0], subtype=subtype
        ) as file,
    ):
        for name, text in (tags or {}).items():
            setattr(file, name, text)
        file.write(_to_frames(first))
        for chunk in chunks:
            file.write(_to_frames(chunk))


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """Reads the text tags of an audio file, those of `TAG_NAMES` that are set."""
    with soundfile.SoundFile(path) as file:
        return {name: text for name, text in file.copy_metadata().items() if name in TAG_NAMES}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`, renamed to it on success and removed on any failure."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_frames(waveform: torch.Tensor) -> np.ndarray:
    """`(channels, num_samples)` on any device and dtype to libsndfile's `(num_samples, channels)` float32."""
    return waveform.detach().to("cpu", torch.float32).clamp(-1, 1).T.contiguous().numpy()
