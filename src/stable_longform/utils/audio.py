"""Reads, writes and resamples audio. No other module of the package accesses audio files.

Conventions: a waveform is a float32 tensor of shape `(channels, num_samples)` with values in [-1, 1]; rates are in
Hz; times are in seconds. libsndfile (soundfile) decodes and encodes, soxr resamples. Lengths are those of the actual
sound, even if the header is wrong (`stable_longform.utils.audio_headers`).
"""

import contextlib
import functools
import io
import itertools
import math
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch

from stable_longform.utils.audio_headers import FileWithHead, HeaderCheck, check_header
from stable_longform.utils.files import atomic_path, check_output_file
from stable_longform.utils.text_files import is_text, printable
from stable_longform.utils.wav import INFO_NAMES, finish_wav, is_wav, read_wav_tags

AUDIO_EXTENSIONS = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".rf64", ".w64",
)  # fmt: skip
# Recordings that libsndfile cannot decode; they are reported, not ignored.
UNSUPPORTED_EXTENSIONS = (
    ".m4a", ".m4b", ".mp4", ".aac", ".ac3", ".alac", ".amr", ".ape", ".dsf", ".mka", ".mpc", ".ra", ".tta", ".webm",
    ".wma", ".wv",
)  # fmt: skip
# libsndfile subtype for each extension and sample format that we write.
SUBTYPES = {
    ".wav": {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"},
    ".flac": {"pcm16": "PCM_16", "pcm24": "PCM_24"},
    ".ogg": {"vorbis": "VORBIS"},
    ".opus": {"opus": "OPUS"},
    ".mp3": {"mp3": "MPEG_LAYER_III"},
}
DEFAULT_SAMPLE_FORMAT = {".wav": "pcm16", ".flac": "pcm24", ".ogg": "vorbis", ".opus": "opus", ".mp3": "mp3"}
FORMATS = {".wav": "RF64", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3"}
# Rates in Hz that a format supports; audio with another rate is resampled to the highest one.
RATES = {
    ".opus": (8000, 12000, 16000, 24000, 48000),
    ".mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
TAG_NAMES = tuple(INFO_NAMES)
READ_BLOCK = 2**18  # frames read at a time
# What libsndfile says of a file that its mp3 decoder cannot open; that it is a file is checked before.
NO_FILE = "File does not exist or is not a regular file (possibly a pipe?)."
# Frames written at a time: libsndfile's vorbis encoder overflows the stack if it gets minutes at once.
WRITE_BLOCK = 65536
# Frames decoded before the requested ones: after a seek, the first frames are wrong in formats that overlap blocks
# (vorbis) or spread them over several frames (mp3).
RUN_UP = {"OGG": 8192, "MP3": 16384}
MARGIN = 256  # samples at the lower rate on either side of a part, so that it is resampled like the whole
NUM_CHECKS_KEPT = 65536  # files whose header checks are cached
CLIP_RATE = 48000
CLIP_COMPRESSION = 0.92  # libsndfile's scale from 0 to 1; about 50 kbit/s in stereo, 130 kB for 20 seconds


@dataclass(frozen=True)
class AudioInfo:
    """Length, rate in Hz, channels and encoding (libsndfile's names of format and subtype).

    `loss` describes what is missing compared to the header, for example in a file that was cut off; None: nothing.
    """

    duration_in_s: float
    sampling_rate: int
    channels: int
    encoding: str
    loss: str | None = None


def read_info(path: str | os.PathLike | BinaryIO) -> AudioInfo:
    """Reads the properties of an audio file, from a path or an open binary file.

    Raises:
        ValueError: the file cannot be decoded.
    """
    with _open_audio(path) as (file, check):
        duration_in_s = file.frames / file.samplerate
        encoding = f"{file.format}/{file.subtype}"
        return AudioInfo(duration_in_s, file.samplerate, file.channels, encoding, check.loss)


def read_audio(
    path: str | os.PathLike | BinaryIO,
    start_in_s: float = 0.0,
    duration_in_s: float | None = None,
    sampling_rate: int | None = None,
) -> tuple[torch.Tensor, int]:
    """Reads a file or a part of it; the samples of a part equal those of the whole file.

    Args:
        path: any format that libsndfile decodes (wav, flac, ogg vorbis, opus, mp3 ...); a path, or a binary file that
            can seek.
        start_in_s: first second to read, in [0, file duration).
        duration_in_s: seconds to read, > 0; None reads to the end. The result is shorter if the file ends earlier.
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
    if sampling_rate is not None:
        _check_rate(sampling_rate)
    with _open_audio(path) as (file, _):
        if not 0 <= round(start_in_s * file.samplerate) < max(file.frames, 1):
            end_in_s = file.frames / file.samplerate
            raise ValueError(f"start_in_s must be in [0, {end_in_s:.3f}) for {_name(path)}, got {start_in_s}.")
        rate = file.samplerate if sampling_rate is None else sampling_rate
        start, count = round(start_in_s * rate), None if duration_in_s is None else round(duration_in_s * rate)
        samples = _read_resampled(file, start, count, rate)
    return torch.from_numpy(np.ascontiguousarray(samples.T)), rate


def read_blocks(path: str | os.PathLike, sampling_rate: int | None = None) -> Iterator[torch.Tensor]:
    """Reads a whole file block by block, in constant memory; together the blocks are what `read_audio` returns.

    Args:
        path: as in `read_audio`.
        sampling_rate: rate in Hz of the blocks; None keeps the file's own.

    Yields:
        float32 `(channels, n)` with n >= 1.

    Raises:
        ValueError: the file cannot be decoded, is cut off, or `sampling_rate` is not greater than 0.
    """
    if sampling_rate is not None:
        _check_rate(sampling_rate)
    with _open_audio(path) as (file, check):
        if check.loss is not None:
            raise ValueError(f"{_name(path)} is cut off: {check.loss}.")
        resampler = None
        if sampling_rate not in (None, file.samplerate):
            resampler = soxr.ResampleStream(file.samplerate, sampling_rate, file.channels, quality="HQ")
        blocks = itertools.chain(_read_on(file, file.frames), [np.zeros((0, file.channels), np.float32)])
        for samples in blocks:
            if resampler is not None:
                samples = resampler.resample_chunk(samples, last=len(samples) == 0)
            if len(samples) > 0:
                yield torch.from_numpy(np.ascontiguousarray(samples.T))


def resample(waveform: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resamples `(channels, num_samples)` from `from_rate` to `to_rate` Hz (soxr, high quality)."""
    _check_rate(from_rate)
    _check_rate(to_rate)
    if from_rate == to_rate:
        return waveform
    resampled = soxr.resample(waveform.T.contiguous().numpy(), from_rate, to_rate, quality="HQ")
    return torch.from_numpy(np.ascontiguousarray(resampled.T))


def to_stereo(waveform: torch.Tensor) -> torch.Tensor:
    """Converts to `(2, num_samples)`: mono is duplicated, stereo returned unchanged.

    Raises:
        ValueError: the waveform is not `(1 or 2, num_samples)`.
    """
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
        raise ValueError(f"waveform must be (1 or 2 channels, num_samples), got shape {tuple(waveform.shape)}.")
    return waveform.expand(2, -1) if waveform.shape[0] == 1 else waveform


def check_output_path(path: str | os.PathLike, sample_format: str | None = None) -> str:
    """Checks before any work is done that `path` can be written; returns the libsndfile subtype.

    Raises:
        ValueError: the extension or sample format is unknown, the folder is missing or not writable, or `path` is a
            folder.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if extension not in SUBTYPES:
        raise ValueError(f"{path}: the extension must be one of {', '.join(SUBTYPES)}, got {extension!r}.")
    sample_format = sample_format or DEFAULT_SAMPLE_FORMAT[extension]
    if sample_format not in SUBTYPES[extension]:
        accepted = ", ".join(SUBTYPES[extension])
        raise ValueError(f"sample_format for {extension} must be one of {accepted}, got {sample_format!r}.")
    if SUBTYPES[extension][sample_format] not in soundfile.available_subtypes(FORMATS[extension]):
        raise ValueError(f"{path}: libsndfile {soundfile.__libsndfile_version__} cannot write {extension}.")
    check_output_file(path)
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
        path: `.wav`, `.flac`, `.ogg`, `.opus` or `.mp3`. The last two need a recent libsndfile; audio with a rate that
            they do not support (`RATES`) is resampled to 48 kHz.
        waveform: `(channels, num_samples)`, or an iterable of chunks of this shape. Values beyond [-1, 1] are clipped
            in integer formats and kept in the others.
        sampling_rate: Hz, a whole number > 0.
        sample_format: "pcm16", "pcm24" or "float" for wav; "pcm16" or "pcm24" for flac; "vorbis" for ogg; "opus" for
            opus; "mp3" for mp3.
        tags: text for the file's tags; names from `TAG_NAMES`. In flac, ogg and opus, libsndfile adds its own name to
            `software`. In mp3, the encoder's name replaces it, and players show letters beyond ASCII incorrectly.

    A wav of more than 4 GiB becomes an RF64 file with the same extension.

    Raises:
        ValueError: see `check_output_path`; or a tag has an unknown name, no text or a text too long for the format,
            the rate is not a whole number > 0, chunks are not `(channels, num_samples)` with the same channels, or
            there are no samples.
    """
    tags, subtype = dict(tags or {}), check_output_path(path, sample_format)
    extension = Path(path).suffix.lower()
    format_name = FORMATS[extension]
    _check_tags(tags, format_name, subtype)
    if not isinstance(sampling_rate, int) or sampling_rate <= 0:
        raise ValueError(f"sampling_rate must be a whole number of Hz greater than 0, got {sampling_rate!r}.")
    chunks = iter([waveform] if isinstance(waveform, torch.Tensor) else waveform)
    first = next(chunks, None)
    if first is None:
        raise ValueError("waveform holds no chunk to write.")
    if first.ndim != 2:
        raise ValueError(f"waveform must be (channels, num_samples), got shape {tuple(first.shape)}.")
    chunks = itertools.chain([first], chunks)
    if sampling_rate not in RATES.get(extension, (sampling_rate,)):
        chunks, sampling_rate = _resample_chunks(chunks, sampling_rate, RATES[extension][-1]), RATES[extension][-1]
    with atomic_path(path) as temporary:
        with soundfile.SoundFile(temporary, "w", sampling_rate, first.shape[0], subtype, format=format_name) as file:
            if format_name != "RF64":
                _set_tags(file, tags)
            for chunk in chunks:
                if chunk.ndim != 2 or chunk.shape[0] != file.channels:
                    raise ValueError(
                        f"Every chunk must be ({file.channels} channels, num_samples), got shape {tuple(chunk.shape)}."
                    )
                for block in chunk.split(WRITE_BLOCK, dim=1):
                    file.write(_to_frames(block, is_clipped=subtype.startswith("PCM")))
            if file.frames == 0:
                raise ValueError("waveform holds no samples to write.")
        if format_name == "RF64":
            finish_wav(temporary, tags)


def write_clip(path: str | os.PathLike, waveform: torch.Tensor, sampling_rate: int) -> None:
    """Writes an opus file for a web page, smaller than that of `write_audio`: about 50 kbit/s in stereo.

    Args:
        path: `.opus`.
        waveform: `(channels, num_samples)`, values in [-1, 1].
        sampling_rate: Hz; the file has 48 kHz.
    """
    frames = _to_frames(resample(waveform, sampling_rate, CLIP_RATE), is_clipped=True)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, frames, CLIP_RATE, format="OGG", subtype="OPUS", compression_level=CLIP_COMPRESSION)


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """Reads the text tags of an audio file, those of `TAG_NAMES` that are set.

    Raises:
        ValueError: the file cannot be decoded.
    """
    with _open_audio(path) as (file, _):
        if is_wav(path):
            return read_wav_tags(path)
        metadata = file.copy_metadata()
        is_mp3 = file.format == "MP3"
    return {name: _tag_text(metadata[name], is_mp3) for name in TAG_NAMES if metadata.get(name)}


@contextlib.contextmanager
def stored(
    chunks: Iterable[torch.Tensor], folder: str | os.PathLike
) -> Iterator[tuple[Iterator[torch.Tensor], float]]:
    """Stores chunks in a temporary file in `folder` until their peak is known; returns them again, and the peak.

    Args:
        chunks: `(channels, num_samples)` each, stored in float32. They are consumed on entry.
        folder: with enough free space for them.
    """
    with tempfile.TemporaryFile(prefix=".chunks", dir=os.fspath(folder)) as file:
        peak, shapes = 0.0, []
        for chunk in chunks:
            chunk = chunk.detach().to("cpu", torch.float32).contiguous()
            file.write(chunk.numpy().data)
            peak = max(peak, chunk.abs().max().item())
            shapes.append(tuple(chunk.shape))
        file.seek(0)
        values = (np.fromfile(file, np.float32, math.prod(shape)).reshape(shape) for shape in shapes)
        yield (torch.from_numpy(value) for value in values), peak


class _AudioFile(soundfile.SoundFile):
    """A file that is read sequentially. soundfile seeks after each read of a seekable file, which makes the next
    samples wrong, see `RUN_UP`.
    """

    def seekable(self) -> bool:
        """False, so that soundfile does not seek by itself; `seek` still works."""
        return False


@contextlib.contextmanager
def _open_audio(path: str | os.PathLike | BinaryIO) -> Iterator[tuple[soundfile.SoundFile, HeaderCheck]]:
    """Opens a path or a binary file with a corrected header; also returns the result of the header's check.

    Raises:
        ValueError: it cannot be decoded, now or inside the block.
    """
    try:
        with contextlib.ExitStack() as stack:
            if isinstance(path, (str, os.PathLike)):
                check = _check_path(path)
                name = os.fspath(path) if os.name == "nt" else os.fsencode(path)
                source = stack.enter_context(open(path, "rb")) if check.skip or check.head else name
            else:
                check, source = check_header(path), path
                path.seek(0)
            if not isinstance(source, (str, bytes)) and (check.skip or check.head):
                source = FileWithHead(source, check.head, check.skip)
            yield stack.enter_context(_AudioFile(source)), check
    except soundfile.LibsndfileError as error:  # its text would name an object in memory
        reason = error.error_string.replace(NO_FILE, "Format not recognised.")
        raise ValueError(f"{_name(path)} cannot be read as audio: {reason}") from error
    except (OSError, TypeError) as error:  # the latter for headerless files
        raise ValueError(f"{_name(path)} cannot be read as audio: {error}") from error


def _check_path(path: str | os.PathLike) -> HeaderCheck:
    """`check_header` of a path, cached until the file changes.

    Raises:
        OSError: the file cannot be read, or it is a folder, a pipe or a device, which may never end.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a file")
    return _check_file(os.fspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(NUM_CHECKS_KEPT)
def _check_file(path: str, size: int, changed: int) -> HeaderCheck:
    """`check_header` of a file with this size and modification time."""
    with open(path, "rb") as file:
        return check_header(file)


def _read_resampled(file: soundfile.SoundFile, start: int, count: int | None, rate: int) -> np.ndarray:
    """Samples `start` to `start + count - 1`, or to the end, of a file at another rate, `(num_samples, channels)`.

    Reading starts far enough before `start`, at a position that is a whole number of samples at both rates.
    """
    if rate == file.samplerate:
        return _read_frames(file, start, count)
    common = math.gcd(rate, file.samplerate)
    own_step, step = file.samplerate // common, rate // common
    margin = math.ceil(MARGIN * max(file.samplerate / rate, 1))
    meeting = max(start // step - math.ceil(margin / own_step), 0)
    own_count = None
    if count is not None:
        own_count = math.ceil((start + count) * own_step / step) + margin - meeting * own_step
    samples = soxr.resample(_read_frames(file, meeting * own_step, own_count), file.samplerate, rate, quality="HQ")
    start -= meeting * step
    return samples[start:] if count is None else samples[start : start + count]


def _resample_chunks(chunks: Iterable[torch.Tensor], from_rate: int, to_rate: int) -> Iterator[torch.Tensor]:
    """Resamples consecutive chunks `(channels, n)`, with the same result as `resample` of the whole."""
    chunks = iter(chunks)
    first = next(chunks)
    resampler = soxr.ResampleStream(from_rate, to_rate, first.shape[0], quality="HQ")
    for chunk in itertools.chain([first], chunks):
        yield torch.from_numpy(resampler.resample_chunk(_to_frames(chunk, is_clipped=False))).T
    yield torch.from_numpy(resampler.resample_chunk(np.zeros((0, first.shape[0]), np.float32), last=True)).T


def _read_frames(file: soundfile.SoundFile, start: int, count: int | None) -> np.ndarray:
    """Frames `start` to `start + count - 1`, or to the end, of a file, `(num_samples, channels)`."""
    first = max(start - RUN_UP.get(file.format, 0), 0)
    end = file.frames if count is None else min(start + count, file.frames)
    file.seek(first)
    return np.concatenate([np.zeros((0, file.channels), np.float32), *_read_on(file, end - first)])[start - first :]


def _read_on(file: soundfile.SoundFile, count: int) -> Iterator[np.ndarray]:
    """The next `count` frames of a file, or as many as there are, in blocks `(n, channels)` with n >= 1.

    A header may promise more frames than fit into memory, hence the blocks.
    """
    while count > 0:
        samples = file.read(min(count, READ_BLOCK), dtype="float32", always_2d=True)
        if len(samples) == 0:
            break
        yield samples
        count -= len(samples)


def _name(path: str | os.PathLike | BinaryIO) -> str:
    """The name of a file in errors."""
    return printable(path) if isinstance(path, (str, os.PathLike)) else "the data"


def _check_rate(sampling_rate: int) -> None:
    """Raises a ValueError unless a rate is greater than 0."""
    if sampling_rate <= 0:
        raise ValueError(f"Sampling rates must be greater than 0 Hz, got {sampling_rate}.")


def _check_tags(tags: Mapping[str, str], format_name: str, subtype: str) -> None:
    """Checks that every tag has a known name and a text that can be read back from the format."""
    unknown = sorted(set(tags) - set(TAG_NAMES))
    if unknown:
        raise ValueError(f"Tag names must be among {', '.join(TAG_NAMES)}, got {', '.join(unknown)}.")
    for name, text in tags.items():
        if not is_text(text) or not text or "\0" in text:
            raise ValueError(f"The tag {name} must be text and not empty, got {text!r}.")
    if format_name != "RF64":
        _try_tags(tags, format_name, subtype)


def _try_tags(tags: Mapping[str, str], format_name: str, subtype: str) -> None:
    """Raises a ValueError unless the tags can be read back from a short file in memory."""
    data = io.BytesIO()
    try:
        with soundfile.SoundFile(data, "w", 48000, 1, subtype, format=format_name) as file:
            _set_tags(file, tags)
            file.write(np.zeros(1, np.float32))
        data.seek(0)
        with soundfile.SoundFile(data) as file:
            found = {name: _tag_text(text, file.format == "MP3") for name, text in file.copy_metadata().items()}
    except soundfile.LibsndfileError:
        found = {}
    lost = [name for name, text in tags.items() if not found.get(name, "").startswith(text)]
    lost = [name for name in lost if (name, format_name) != ("software", "MP3")]  # the encoder writes its own name
    if lost:
        name = max(lost, key=lambda name: len(tags[name]))
        length = len(tags[name])
        raise ValueError(f"{format_name} cannot hold the tag {name}, or not at this length: {length} characters.")


def _tag_text(text: str, is_mp3: bool) -> str:
    """The text of a tag as it was written: libsndfile writes UTF-8 to an mp3 and reads it as Latin-1."""
    if not is_mp3:
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:  # of another program
        return text


def _set_tags(file: soundfile.SoundFile, tags: Mapping[str, str]) -> None:
    """Sets the tags of a file that is written."""
    for name, text in tags.items():
        setattr(file, name, text)


def _to_frames(waveform: torch.Tensor, is_clipped: bool) -> np.ndarray:
    """`(channels, num_samples)` on any device and dtype to libsndfile's `(num_samples, channels)` float32."""
    samples = waveform.detach().to("cpu", torch.float32)
    return (samples.clamp(-1, 1) if is_clipped else samples).T.contiguous().numpy()
