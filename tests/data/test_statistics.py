"""Counts and shares of tracks whose answer is known; loudness against the standard; the picture."""

import json

import numpy as np
import pytest
import soundfile

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.statistics import (
    EDGES_IN_S,
    Examined,
    draw_durations,
    examine_track,
    format_summary,
    has_loudness_meter,
    share_shorter,
    summarize,
)
from stable_longform.data.tracks import Track
from stable_longform.utils.audio import AudioInfo

RATE = 48000


def track_of(path, waveform: np.ndarray, says_in_s: float | None = None, **metadata) -> Track:
    """Writes `(num_samples, channels)` and describes it."""
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    return Track(path, says_in_s or len(waveform) / RATE, "train", metadata=metadata)


def sine(seconds: float, amplitude: float) -> np.ndarray:
    tone = amplitude * np.sin(2 * np.pi * 997 * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([tone, tone], axis=1)


def test_loudness_and_peak_of_a_sine(tmp_path):
    """BS.1770: 997 Hz at 0 dBFS in one channel is -3.01 LUFS, in two 0 LUFS; without pyloudnorm the RMS."""
    examined = examine_track(track_of(tmp_path / "a.wav", sine(3, 0.1)), True)
    assert examined.loudness == pytest.approx(-20.0 if has_loudness_meter() else -23.01, abs=0.1)
    assert examined.peak_in_dbfs == pytest.approx(-20.0, abs=0.01)
    unmeasured = examine_track(examined.track, False)
    assert unmeasured.loudness is None and unmeasured.info == AudioInfo(3.0, RATE, 2, "WAV/FLOAT")


def test_excerpts_reach_the_end_of_long_tracks(tmp_path):
    """Of 40 s only the last 3 s are loud."""
    waveform = np.concatenate([sine(37, 0.01), sine(3, 0.5)])
    assert examine_track(track_of(tmp_path / "a.wav", waveform), True).peak_in_dbfs == pytest.approx(-6.02, abs=0.01)


def test_bad_tracks(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    silence = np.zeros((RATE, 2))
    nan = np.full((RATE, 1), np.nan)
    for track, is_measured, kind in (
        (Track(tmp_path / "text.wav", 1.0, "train"), False, "broken"),
        (track_of(tmp_path / "long.wav", sine(1, 0.5), says_in_s=2.0), False, "mislabelled"),
        (track_of(tmp_path / "silent.wav", silence), True, "silent"),
        (track_of(tmp_path / "nan.wav", nan), True, "broken"),
    ):
        error = examine_track(track, is_measured)
        assert isinstance(error, BadTrackError) and error.kind == kind
    assert isinstance(examine_track(Track(tmp_path / "silent.wav", 1.0, "train"), False), Examined)


def examined(duration_in_s: float, split: str = "train", loudness=None, **metadata) -> Examined:
    info = AudioInfo(duration_in_s, 44100 if duration_in_s > 100 else 48000, 2, "OGG/VORBIS")
    return Examined(Track("x", duration_in_s, split, metadata=metadata), info, loudness, loudness)


ITEMS = [
    examined(60, genre="Rock", bpm=90, loudness=-12.0),
    examined(90, genre=["Rock", "Pop"], loudness=-20.0),
    examined(285.33, "valid", moods=["Calm"], loudness=-float("inf")),
    examined(1000, title="nothing for a prompt"),
]
ERRORS = [BadTrackError("a.wav", "broken", "two\nlines"), BadTrackError("b.wav", "silent", "why")]


def test_summary():
    summary = summarize(ITEMS, ERRORS)
    assert summary["num_tracks"] == 4 and summary["hours"] == pytest.approx(1435.33 / 3600)
    assert summary["splits"]["train"] == {"num_tracks": 3, "hours": pytest.approx(1150 / 3600)}
    assert summary["durations"] == {
        "min": 60, "p5": pytest.approx(64.5), "median": pytest.approx(187.665), "p95": pytest.approx(892.7995),
        "max": 1000, "mean": pytest.approx(358.8325),
    }  # fmt: skip
    assert summary["shares_not_longer"] == {"90": 0.5, "190.22": 0.5, "285.33": 0.75}
    assert sum(count for *_, count in summary["histogram"]) == 4
    assert [30, 60, 1] in summary["histogram"] and [240, 285.33, 1] in summary["histogram"]
    assert summary["histogram"][-1] == [EDGES_IN_S[-2], None, 1]
    assert summary["sampling_rates"] == {"48000": 2, "44100": 2}
    assert summary["fields"] == {"description": 0, "bpm": 1, "key": 0, "genre": 2, "moods": 1, "instruments": 0}
    assert summary["tags"]["genre"] == {"Rock": 2, "Pop": 1} and summary["num_without_prompt"] == 1
    assert {kind: count for kind, count in summary["bad"].items() if count} == {"broken": 1, "silent": 1}
    assert summary["bad_tracks"] == ["a.wav: broken: two lines", "b.wav: silent: why"]
    assert summary["loudness"]["median"] == -16.0 and summary["num_measured"] == 3
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_as_text():
    text = format_summary(summarize(ITEMS, ERRORS))
    for part in (
        "4 tracks, 0.40 h",
        "not longer than: 90 s: 50.0%, 190.22 s: 50.0%, 285.33 s: 75.0%",
        "sampling rates: 48000 (2), 44100 (2)",
        "prompt fields: bpm (1), genre (2), moods (1); without any: 1",
        "genre, 2 values: Rock (2), Pop (1)",
        "cannot be used: 2 (1 broken, 1 silent)\n  a.wav: broken: two lines\n  b.wav: silent: why",
    ):
        assert part in text


def test_summary_of_nothing():
    summary = summarize([], ERRORS[:1])
    assert summary["num_tracks"] == 0 and summary["durations"]["mean"] is None
    assert format_summary(summary).startswith(
        "0 tracks, 0.00 h\nprompt fields: none; without any: 0\ncannot be used: 1"
    )


def test_share_shorter_is_a_distribution():
    lengths = np.random.default_rng(0).uniform(10, 600, 50)
    shares = [share_shorter(lengths, seconds) for seconds in np.linspace(0, 700, 80)]
    assert shares[0] == 0 and shares[-1] == 1 and all(np.diff(shares) >= 0)
    assert share_shorter(lengths, float(np.median(lengths))) == 0.5


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    draw_durations(tmp_path / "a.svg", [30, 90, 200, 300, 5000], "five tracks")
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml") and "<!-- five tracks -->" in text and "<!-- 0.60 -->" in text
    with pytest.raises(ValueError, match="no durations"):
        draw_durations(tmp_path / "b.svg", [], "none")
