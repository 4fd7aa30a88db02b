"""Audio files of a folder, read and prepared for the metrics; whatever is wrong with one is said, not repaired.

Conventions: a file is known by its path relative to the folder, without the extension. A problem that makes a file
unusable raises `UnusableAudioError`, whose text is the reason in the report; a property that the metrics can live with
is returned as a note.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from stable_longform.utils.audio import read_audio, resample, to_stereo

EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff")
PEAK_IN_DB = -1.0  # to which every file is normalised, as in the paper's code
LOW_RATE = 16000  # Hz, below which a note is made


class UnusableAudioError(ValueError):
    """A file that cannot be evaluated; the text is the reason."""


@dataclass(frozen=True)
class ReadingSettings:
    """How files are read.

    Args:
        trim_in_s: only the first seconds of each file; None reads it whole.
        max_duration_in_s: files of which more would be read are unusable.
        peak_in_db: level to which the highest peak of all channels is brought, in dBFS; None leaves the level.
    """

    trim_in_s: float | None = None
    max_duration_in_s: float = 1800.0
    peak_in_db: float | None = PEAK_IN_DB


@dataclass(frozen=True)
class Audio:
    """A waveform `(1 or 2, num_samples)` as prepared, its rate in Hz, and notes about the file."""

    waveform: torch.Tensor
    sampling_rate: int
    notes: tuple[str, ...] = ()


def list_audio(folder: str | os.PathLike) -> dict[str, Path]:
    """Audio files of a folder and its subfolders by name, in alphabetical order.

    Raises:
        ValueError: there is no such folder, no audio file in it, or two that differ in their extension only.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in files:
                raise ValueError(f"{folder} has two files named {name}: {files[name].name} and {path.name}.")
            files[name] = path
    if not files:
        raise ValueError(f"{folder} has no audio file ({', '.join(EXTENSIONS)}).")
    return files


def load_audio(path: Path, settings: ReadingSettings) -> Audio:
    """Reads and normalises one file.

    Raises:
        UnusableAudioError: it cannot be read, is empty or too long, has more than two channels or samples that are not
            finite.
    """
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UnusableAudioError(f"unreadable: {' '.join(str(error).split())}") from error
    if info.frames <= 0:
        raise UnusableAudioError("empty: no samples")
    if info.channels > 2:
        raise UnusableAudioError(f"{info.channels} channels, more than two")
    duration = min(info.duration, settings.trim_in_s or info.duration)
    if duration > settings.max_duration_in_s:
        raise UnusableAudioError(f"too long: {info.duration:.0f} s, more than {settings.max_duration_in_s:.0f} s")
    try:
        waveform, sampling_rate = read_audio(path, duration_in_s=settings.trim_in_s)
    except ValueError as error:
        raise UnusableAudioError(f"unreadable: {error}") from error
    if waveform.shape[1] == 0:
        raise UnusableAudioError("empty: no samples")
    if not waveform.isfinite().all():
        raise UnusableAudioError("samples that are not finite")
    notes = []
    if info.channels == 1:
        notes.append("mono")
    if info.samplerate < LOW_RATE:
        notes.append(f"sampling rate of {info.samplerate} Hz")
    if settings.trim_in_s and info.duration < settings.trim_in_s:
        notes.append(f"shorter than the trim: {info.duration:.2f} s")
    if waveform.abs().max() == 0:
        notes.append("silent")
    return Audio(normalize_peak(waveform, settings.peak_in_db), sampling_rate, tuple(notes))


def normalize_peak(waveform: torch.Tensor, peak_in_db: float | None) -> torch.Tensor:
    """Brings the highest absolute sample of `(channels, num_samples)` to a level in dBFS; silence stays silence."""
    peak = waveform.abs().max()
    if peak_in_db is None or peak == 0:
        return waveform
    return waveform * (10 ** (peak_in_db / 20) / peak)


def to_channels(audio: Audio, num_channels: int, sampling_rate: int) -> torch.Tensor:
    """The waveform with one channel (the mean) or two (mono is duplicated), resampled."""
    waveform = audio.waveform.mean(dim=0, keepdim=True) if num_channels == 1 else to_stereo(audio.waveform)
    return resample(waveform, audio.sampling_rate, sampling_rate)
