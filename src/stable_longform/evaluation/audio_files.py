"""Reads the audio files of a folder for the metrics; errors in files are reported, not repaired.

Conventions: a file is identified by its path relative to the folder, without the extension. If a problem makes a file
unusable, `UnusableAudioError` is raised, whose text is the reason in the report. Other properties that matter are
returned as notes.

References: `stable-audio-metrics` for the level. Each of its metrics normalises the highest peak to -1 dBFS: OpenL3's
on the stereo file at its own rate, PaSST's and CLAP's after mixing to mono and resampling.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stable_longform.data.sources import open_source
from stable_longform.data.tracks import Track
from stable_longform.utils.audio import (
    AUDIO_EXTENSIONS,
    UNSUPPORTED_EXTENSIONS,
    AudioInfo,
    read_audio,
    read_info,
    resample,
    to_stereo,
)
from stable_longform.utils.files import file_sha256
from stable_longform.utils.text_files import printable

# Extensions of audio files. Files that libsndfile cannot decode are listed as unusable in the report.
EXTENSIONS = AUDIO_EXTENSIONS + UNSUPPORTED_EXTENSIONS
PEAK_IN_DB = -1.0  # to which every file is normalised, as in the paper's code
LOW_RATE = 16000  # Hz; lower rates are noted
PEAK_RULE = "mono: after the mix and the resampling; stereo: over both channels, before the resampling"


class UnusableAudioError(ValueError):
    """A file that cannot be evaluated; the text is the reason."""


@dataclass(frozen=True)
class ReadingSettings:
    """How files are read.

    Args:
        trim_in_s: use only the first seconds of each file; None: the whole file.
        max_duration_in_s: files that are longer (after trimming) are unusable.
        peak_in_db: level to which the highest peak is normalised, in dBFS, see `to_channels`; None: no normalisation.
    """

    trim_in_s: float | None = None
    max_duration_in_s: float = 1800.0
    peak_in_db: float | None = PEAK_IN_DB


@dataclass(frozen=True)
class Audio:
    """A waveform `(1 or 2, num_samples)` as it is in the file, its rate in Hz, and notes about the file."""

    waveform: torch.Tensor
    sampling_rate: int
    notes: tuple[str, ...] = ()


def list_audio(folder: str | os.PathLike) -> dict[str, Path]:
    """Audio files of a folder and its subfolders by name, in alphabetical order. Links to folders are followed.

    Raises:
        ValueError: there is no such folder, it has no audio file, or two files differ only in their extension.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    files: dict[str, Path] = {}
    for path in sorted(_walk(folder)):
        if path.suffix.lower() in EXTENSIONS:
            name = printable(path.relative_to(folder).with_suffix("").as_posix())
            if name in files:
                raise ValueError(f"{folder} has two files named {name}: {files[name].name} and {path.name}.")
            files[name] = path
    if not files:
        raise ValueError(f"{folder} has no audio file ({', '.join(EXTENSIONS)}).")
    return files


def list_tracks(source: str | os.PathLike, split: str, limit: int | None = None) -> dict[str, Path]:
    """Audio files of one split of a source of music by name, in its order.

    Args:
        source: one that consists of files: a manifest, a folder or a CSV file.
        split: "train", "valid", "test" or "extra".
        limit: number of files to take; None: all.

    Raises:
        ValueError: see `open_source`; or the source holds its audio in tars or tables.
    """
    tracks = tracks_of_files(source, split)[:limit]
    return {printable(track.path.with_suffix("").as_posix()): track.path for track in tracks}


def tracks_of_files(source: str | os.PathLike, split: str | None = None) -> Sequence[Track]:
    """The tracks of a source of music that consists of audio files, in its order; of one split, or all.

    Raises:
        ValueError: see `open_source`; or the source holds its audio in tars or tables.
    """
    tracks = open_source(source, split).tracks
    if not tracks or any(track.storage is not None for track in tracks):
        raise ValueError(f"{source} does not consist of audio files.")
    return tracks


def count_other_files(folder: str | os.PathLike) -> dict[str, int]:
    """Number of files in a folder and its subfolders that are not audio files, by extension."""
    extensions = Counter(path.suffix.lower() for path in _walk(Path(folder)))
    return {extension: count for extension, count in sorted(extensions.items()) if extension not in EXTENSIONS}


def _walk(folder: Path, parents: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files in a folder and its subfolders, except hidden ones and links to a parent folder."""
    place = folder.resolve()
    for path in sorted(folder.iterdir()) if place not in parents else ():
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, parents | {place})
        elif not path.name.startswith("."):
            yield path


def audio_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        UnusableAudioError: it cannot be read, or is a pipe or a device, which may never end.
    """
    if not path.is_file():
        raise UnusableAudioError("unreadable: not a file, or a link to nothing")
    try:
        return file_sha256(path)
    except OSError as error:
        raise UnusableAudioError(f"unreadable: {error}") from error


def load_audio(path: Path, settings: ReadingSettings) -> Audio:
    """Reads one file, and checks it.

    Raises:
        UnusableAudioError: it cannot be read, is empty or too long, has more than two channels or samples that are not
            finite.
    """
    info = read_header(path, settings)
    try:
        waveform, sampling_rate = read_audio(path, duration_in_s=settings.trim_in_s)
    except ValueError as error:
        raise UnusableAudioError(f"unreadable: {error}") from error
    if waveform.shape[1] == 0:
        raise UnusableAudioError("empty: no samples")
    if not waveform.isfinite().all():
        raise UnusableAudioError("samples that are not finite")
    notes = header_notes(info, settings)
    if waveform.abs().max() == 0:
        notes.append("silent")
    elif (waveform.abs().amax(dim=1) == 0).any():
        notes.append("one silent channel")
    return Audio(waveform, sampling_rate, tuple(notes))


def read_header(path: Path, settings: ReadingSettings) -> AudioInfo:
    """Reads the properties of a file.

    Raises:
        UnusableAudioError: it cannot be read, is cut off, empty or too long, or has more than two channels.
    """
    try:
        info = read_info(path)
    except ValueError as error:
        raise UnusableAudioError(f"unreadable: {' '.join(str(error).split())}") from error
    if info.loss is not None:
        raise UnusableAudioError(f"cut off: {info.loss}")
    if info.duration_in_s == 0:
        raise UnusableAudioError("empty: no samples")
    if info.channels > 2:
        raise UnusableAudioError(f"{info.channels} channels, more than two")
    duration = min(info.duration_in_s, settings.trim_in_s or info.duration_in_s)
    if duration > settings.max_duration_in_s:
        raise UnusableAudioError(f"too long: {info.duration_in_s:.0f} s, more than {settings.max_duration_in_s:.0f} s")
    return info


def header_notes(info: AudioInfo, settings: ReadingSettings) -> list[str]:
    """Notes about a file, from the header that `read_header` returned."""
    notes = []
    if info.channels == 1:
        notes.append("mono")
    if info.sampling_rate < LOW_RATE:
        notes.append(f"sampling rate of {info.sampling_rate} Hz")
    if settings.trim_in_s and info.duration_in_s < settings.trim_in_s:
        notes.append(f"shorter than the trim: {info.duration_in_s:.2f} s")
    return notes


def normalize_peak(waveform: torch.Tensor, peak_in_db: float | None) -> torch.Tensor:
    """Normalises the highest absolute sample of `(channels, num_samples)` to a level in dBFS, except in silence."""
    peak = waveform.abs().max()
    if peak_in_db is None or peak == 0:
        return waveform
    return waveform * (10 ** (peak_in_db / 20) / peak)


def to_channels(audio: Audio, num_channels: int, sampling_rate: int, peak_in_db: float | None = None) -> torch.Tensor:
    """Converts a waveform to one channel (the mean) or two (mono is duplicated), and resamples it.

    Args:
        audio: the recording.
        num_channels: 1 or 2.
        sampling_rate: Hz of the result.
        peak_in_db: level of the highest peak in dBFS, normalised at the same point as in the paper's code
            (`PEAK_RULE`); None: no normalisation.
    """
    if num_channels == 1:
        mono = resample(audio.waveform.mean(dim=0, keepdim=True), audio.sampling_rate, sampling_rate)
        return normalize_peak(mono, peak_in_db)
    return resample(normalize_peak(to_stereo(audio.waveform), peak_in_db), audio.sampling_rate, sampling_rate)
