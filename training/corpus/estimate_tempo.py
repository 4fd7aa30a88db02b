"""Estimates the tempo of every track of a manifest; the `bpm` column of the table was made with it.

Usage: `python training/corpus/estimate_tempo.py MANIFEST OUTPUT`, which writes one JSON object per line with `path`
and `bpm` (a whole number, or null if no steady beat is found). Needs librosa. About 0.6 s per track on one core.

Method: up to 60 s from the middle of the track, mono at 22.05 kHz; librosa's onset strength and beat tracker (Ellis,
2007); the tempo is the slope of a least-squares line through the beat times. The same is done for each half of the
excerpt, and the tempo is kept only if both halves agree with the whole within 4 %. If they don't, the music has no
steady beat (or the tracker finds none), and a wrong number is worse than none. The method cannot distinguish a tempo
from its half or double.
"""

import argparse
import json
import sys
from pathlib import Path

import librosa
import numpy as np

from stable_longform.data.manifest import read_manifest
from stable_longform.data.tracks import Track
from stable_longform.utils.audio import read_audio
from stable_longform.utils.files import atomic_path

SAMPLING_RATE = 22050
HOP_LENGTH = 256
EXCERPT_IN_S = 60.0
TOLERANCE = 0.04
MIN_BEATS = 8


def estimate_bpm(samples: np.ndarray, sampling_rate: int) -> int | None:
    """Estimates the tempo in beats per minute of mono `(num_samples,)`, or None where it is not steady."""
    middle = len(samples) // 2
    tempi = [_beat_slope(part, sampling_rate) for part in (samples, samples[:middle], samples[middle:])]
    if None in tempi or max(abs(tempo / tempi[0] - 1) for tempo in tempi) > TOLERANCE:
        return None
    return round(tempi[0])


def _beat_slope(samples: np.ndarray, sampling_rate: int) -> float | None:
    """Tempo as the slope of the tracked beats, in beats per minute; None with fewer than `MIN_BEATS` beats."""
    onsets = librosa.onset.onset_strength(y=samples, sr=sampling_rate, hop_length=HOP_LENGTH, aggregate=np.median)
    _, beats = librosa.beat.beat_track(
        onset_envelope=onsets, sr=sampling_rate, hop_length=HOP_LENGTH, units="time", tightness=100
    )
    if len(beats) < MIN_BEATS:
        return None
    return 60 / float(np.polyfit(np.arange(len(beats)), beats, 1)[0])


def track_bpm(track: Track) -> int | None:
    """Estimates the tempo of a track from the middle of its file."""
    start_in_s = max(0.0, (track.duration_in_s - EXCERPT_IN_S) / 2)
    waveform, _ = read_audio(track.path, start_in_s, EXCERPT_IN_S, SAMPLING_RATE)
    return estimate_bpm(waveform.mean(dim=0).numpy(), SAMPLING_RATE)


def main(arguments: list[str] | None = None) -> int:
    """Writes the tempi of a manifest's tracks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    with atomic_path(options.output) as temporary, temporary.open("w", encoding="utf-8") as file:
        for track in read_manifest(options.manifest):
            path = track.path.relative_to(options.manifest.parent).as_posix()
            file.write(json.dumps({"path": path, "bpm": track_bpm(track)}, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
