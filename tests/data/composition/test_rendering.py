"""Pieces as sound. What needs a soundfont is skipped where none is installed (Debian: timgm6mb-soundfont)."""

import math

import pytest
import torch
from soundfont import SOUNDFONT, needs_soundfont

from stable_longform.data.composition import rendering
from stable_longform.data.composition.compose import compose_piece
from stable_longform.data.composition.corpus import compose, render_piece
from stable_longform.data.composition.rendering import (
    LIMITER_BLOCK,
    LIMITER_REACH,
    MAX_PEAK,
    SAMPLING_RATE,
    find_soundfont,
    limiter_gain,
    render,
    render_stems,
)


def level_in_db(waveform: torch.Tensor) -> float:
    return 20 * math.log10(max(waveform.square().mean().sqrt().item(), 1e-9))


@pytest.fixture(scope="module")
def piece():
    return compose_piece(5, 24, "Funk")


@pytest.fixture(scope="module")
def waveform(piece):
    return render(piece, SOUNDFONT, 24)


@needs_soundfont
def test_shape_level_and_end(piece, waveform):
    assert waveform.shape[0] == 2 and waveform.dtype == torch.float32
    assert waveform.shape[1] <= 24 * SAMPLING_RATE
    assert waveform.abs().max() <= MAX_PEAK + 1e-3
    end = round(piece.time_in_s(piece.num_bars * piece.beats_per_bar) * SAMPLING_RATE)
    assert level_in_db(waveform[:, :end]) == pytest.approx(piece.level_in_dbfs, abs=1.5)
    assert waveform[:, -SAMPLING_RATE // 2 :].abs().max() == 0
    assert level_in_db(waveform[:, end - SAMPLING_RATE // 2 : end]) > -45  # the last chord sounds until it is released


@needs_soundfont
def test_the_same_piece_sounds_the_same(piece, waveform):
    assert torch.equal(render(piece, SOUNDFONT, 24), waveform)


@needs_soundfont
def test_stems_add_up_to_the_piece(piece, waveform):
    mix, stems = render_stems(piece, SOUNDFONT, 24)
    assert set(stems) == {part.role for part in piece.parts}
    assert all(stem.shape == mix.shape for stem in stems.values())
    torch.testing.assert_close(sum(stems.values()), mix, atol=1e-5, rtol=0)
    num_samples = min(mix.shape[1], waveform.shape[1])
    error = mix[:, :num_samples] - waveform[:, :num_samples]
    assert level_in_db(error) < level_in_db(waveform) - 40


@needs_soundfont
def test_the_downbeats_are_where_the_tempo_says(piece):
    """The energy of the drums jumps on the first beat of a bar, not a quarter of a beat before it."""
    _, stems = render_stems(piece, SOUNDFONT, 24)
    envelope = stems["drums"].abs().amax(dim=0)
    beat = SAMPLING_RATE * 60 / piece.bpm
    bar = beat * piece.beats_per_bar
    hits = [round(number * bar) for number in range(4, piece.num_bars - 1)]
    after = torch.stack([envelope[start : start + 2000].max() for start in hits])
    before = torch.stack([envelope[start - 1000 : start - 100].max() for start in hits])
    assert (after > 3 * before).float().mean() >= 0.75


@needs_soundfont
def test_every_kind_is_rendered():
    for kind in ("stem", "one-shot"):
        waveform, metadata = render_piece(kind, 4, SOUNDFONT)
        assert 0 <= waveform.shape[1] / SAMPLING_RATE - metadata["duration_in_s"] < 1e-3
        assert waveform.abs().max() > 0.1 and torch.isfinite(waveform).all()
        assert compose(kind, 4)[0].kind == metadata["kind"]


def test_a_soundfont_that_is_none(tmp_path):
    pytest.importorskip("midirenderer")
    path = tmp_path / "broken.sf2"
    path.write_bytes(b"no soundfont")
    with pytest.raises(ValueError, match="broken.sf2 cannot be played"):
        render(compose_piece(0, 20), path)


def test_without_a_soundfont_the_error_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(rendering, "SOUNDFONTS", {"fluid-soundfont-gm": tmp_path / "none.sf2"})
    with pytest.raises(ValueError, match="fluid-soundfont-gm.*timgm6mb-soundfont"):
        find_soundfont()
    with pytest.raises(ValueError, match="There is no soundfont .*other.sf2"):
        find_soundfont(tmp_path / "other.sf2")


def test_the_limiter_leaves_quiet_music_alone():
    assert torch.equal(limiter_gain(torch.rand(10_000) * MAX_PEAK), torch.ones(10_000))


def test_the_limiter_holds_peaks_and_nothing_far_from_them():
    peaks = torch.full((50_000,), 0.5)
    peaks[20_000], peaks[49_999] = 4.0, 2.0
    gain = limiter_gain(peaks)
    assert (peaks * gain).max() <= MAX_PEAK + 1e-6
    reach = LIMITER_BLOCK * (2 * LIMITER_REACH + 2)
    assert (gain[: 20_000 - reach] == 1).all() and (gain[20_000 + reach : 49_999 - reach] == 1).all()
    assert (gain.diff().abs() < 0.005).all()
