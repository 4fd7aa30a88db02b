"""Embeddings of a recording's segments, and realistic copies of recordings, for the measurement of memorization.

Scores don't depend on the gain of a recording. Except with `chroma`, every segment is normalised and embedded on its
own, so an embedder's treatment of longer audio, such as the random chunks of CLAP with fusion, has no effect.
"""

import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from stable_longform.analysis.memorization import unit_rows
from stable_longform.evaluation.audio_files import PEAK_IN_DB, Audio, normalize_peak
from stable_longform.metrics.embedders.chroma import PART_IN_S, ChromaEmbedder
from stable_longform.metrics.embedders.features import AudioFeatures
from stable_longform.utils.audio import read_audio, write_audio

SILENCE_PEAK = 1e-4  # 80 dB below full scale
QUERY_HOPS = 8  # overlapping segments of generations per segment length, so that one matches a copied passage
CHROMA_HOPS = 4  # overlapping segments of training music per segment length, for `chroma`
SHIFT_IN_S = 1.37
GAIN_IN_DB = -9.0
COPIES = ("exact", "re-encoded", "shifted", "quieter", "cut")


class SegmentEmbedder:
    """Turns an embedder of audio into one of its segments: `embeddings` has a row for each, zero for a silent one.

    The row of a segment is the mean over the embedder's windows in it. The rest at the end is a segment too if it is
    at least half as long as a segment and long enough for the embedder, or if it is the whole recording.

    Args:
        embedder: of metrics.embedders.
        segment_in_s: > 0; at least as long as the embedder's windows.
        hop_in_s: from the start of a segment to the start of the next one.
    """

    def __init__(self, embedder, segment_in_s: float, hop_in_s: float):
        self.embedder, self.segment_in_s, self.hop_in_s = embedder, segment_in_s, hop_in_s
        self.name, self.sampling_rate = embedder.name, embedder.sampling_rate
        self.num_channels = embedder.num_channels
        self.protocol = embedder.protocol | {"segment_in_s": segment_in_s, "hop_in_s": hop_in_s}

    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(channels, num_samples)`.

        Raises:
            ValueError: it is too short for the embedder, or completely silent.
        """
        size, hop = round(self.segment_in_s * self.sampling_rate), self.hop_in_s * self.sampling_rate
        rows: list[np.ndarray | None] = []
        num_starts = math.ceil(max(waveform.shape[1] - size // 2, 1) / hop)
        for start in (round(number * hop) for number in range(num_starts)):
            try:
                rows.append(self._row(waveform[:, start : start + size]))
            except ValueError:
                if not rows or start + size <= waveform.shape[1]:
                    raise
        dim = max((len(row) for row in rows if row is not None), default=0)
        if dim == 0:
            raise ValueError("silent")
        return AudioFeatures(np.stack([np.zeros(dim, np.float32) if row is None else row for row in rows]))

    def _row(self, segment: torch.Tensor) -> np.ndarray | None:
        """The embedding of one segment; None if it is silent."""
        if segment.abs().max() < SILENCE_PEAK:
            return None
        return self.embedder(normalize_peak(segment, PEAK_IN_DB)).need_embeddings().mean(axis=0)


def for_segments(embedder, segment_in_s: float, is_query: bool = False):
    """Turns an embedder of audio into one of its segments.

    Args:
        embedder: of metrics.embedders.
        segment_in_s: length of a segment.
        is_query: whether segments begin so often that one of them matches a copied passage of the training set, whose
            segments they are compared with.
    """
    if isinstance(embedder, ChromaEmbedder):
        return ChromaEmbedder(segment_in_s, PART_IN_S if is_query else segment_in_s / CHROMA_HOPS)
    return SegmentEmbedder(embedder, segment_in_s, segment_in_s / QUERY_HOPS if is_query else segment_in_s)


class MiddleEmbedder:
    """Passages in the middle of a recording, spaced so closely that one begins where a passage of its original does.

    `embeddings` has a row for each passage; a single row of zeros if the middle is silent.

    Args:
        embedder: of closely spaced passages.
        length_in_s: length of the middle; of a shorter recording all is used.
    """

    def __init__(self, embedder: ChromaEmbedder, length_in_s: float):
        self.embedder, self.length_in_s = embedder, length_in_s
        self.name, self.sampling_rate = f"{embedder.name}_middle", embedder.sampling_rate
        self.num_channels = embedder.num_channels
        self.protocol = embedder.protocol | {"middle_in_s": length_in_s}

    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """Features of `(channels, num_samples)`.

        Raises:
            ValueError: it is too short for the embedder, or completely silent.
        """
        size = round(self.length_in_s * self.sampling_rate)
        start = max(waveform.shape[1] - size, 0) // 2
        start -= start % round(PART_IN_S * self.sampling_rate)  # in step with the recording's own passages
        try:
            return self.embedder(waveform[:, start : start + size])
        except ValueError:
            return AudioFeatures(np.zeros_like(self.embedder(waveform).need_embeddings()[:1]))


def for_middles(embedder, segment_in_s: float) -> MiddleEmbedder | None:
    """The embedder of middles for recordings that have to be compared moment by moment, those of `chroma`, or None."""
    if not isinstance(embedder, ChromaEmbedder):
        return None
    return MiddleEmbedder(for_segments(embedder, segment_in_s, is_query=True), (1 + 1 / CHROMA_HOPS) * segment_in_s)


def check_segment(embedder: SegmentEmbedder | ChromaEmbedder, segment_in_s: float) -> None:
    """Raises a ValueError if segments are too short for their embedder; tries one of noise."""
    noise = torch.randn(1, round(segment_in_s * embedder.sampling_rate), generator=torch.Generator().manual_seed(0))
    try:
        embedder(0.1 * noise.expand(embedder.num_channels, -1))
    except ValueError as error:
        raise ValueError(f"Passages of {segment_in_s:g} s are too short for {embedder.name}: {error}") from error


def mean_row(segments: np.ndarray) -> np.ndarray:
    """The unit mean `(dim,)` of unit rows `(num_segments, dim)`, silent ones left out."""
    rows = segments[segments.any(axis=1)]
    return unit_rows(rows.mean(axis=0, keepdims=True))[0] if len(rows) else np.zeros(segments.shape[1], np.float32)


def make_copy(audio: Audio, kind: str) -> Audio:
    """A copy of a recording with an alteration.

    Args:
        audio: the recording.
        kind: "exact"; "re-encoded" as Ogg Vorbis; "shifted", without its first 1.37 s; "quieter" by 9 dB; "cut" to its
            middle half.

    Raises:
        ValueError: the kind is unknown.
    """
    waveform, rate = audio.waveform, audio.sampling_rate
    if kind == "exact":
        return audio
    if kind == "quieter":
        return Audio(waveform * 10 ** (GAIN_IN_DB / 20), rate)
    if kind == "shifted":
        return Audio(waveform[:, round(SHIFT_IN_S * rate) :], rate)
    if kind == "cut":
        quarter = waveform.shape[1] // 4
        return Audio(waveform[:, quarter : waveform.shape[1] - quarter], rate)
    if kind != "re-encoded":
        raise ValueError(f"kind must be one of {', '.join(COPIES)}, got {kind!r}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.ogg"
        write_audio(path, waveform.clamp(-1, 1), rate)
        return Audio(*read_audio(path))


def cut_excerpt(audio: Audio, duration_in_s: float, place: float) -> Audio:
    """An excerpt of a recording, or all of a shorter one.

    Args:
        audio: the recording.
        duration_in_s: of the excerpt.
        place: its position in [0, 1]: 0 at the beginning, 1 at the end.
    """
    num_samples = round(duration_in_s * audio.sampling_rate)
    start = int(place * max(audio.waveform.shape[1] - num_samples, 0))
    return Audio(audio.waveform[:, start : start + num_samples], audio.sampling_rate)


def splice(host: torch.Tensor, source: torch.Tensor, share: float, place: float) -> torch.Tensor:
    """Replaces a share of a host by the same part of a source; a larger share contains a smaller one.

    Args:
        host: `(channels, num_samples)`.
        source: `(channels, at least as many samples)` at the same rate.
        share: share of the host to replace, in [0, 1].
        place: position of the part, in [0, 1]: 0 at the beginning, 1 at the end.

    Raises:
        ValueError: the source is shorter than the host.
    """
    num_samples = host.shape[1]
    if source.shape[1] < num_samples:
        raise ValueError(f"The source of a splice must have at least {num_samples} samples, got {source.shape[1]}.")
    spliced, length = host.clone(), round(share * num_samples)
    start = int(place * (num_samples - length))
    spliced[:, start : start + length] = source[:, start : start + length]
    return spliced
