"""Renders pieces with midirenderer and a General MIDI soundfont."""

import io
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.nn.functional import conv1d, interpolate, max_pool1d, pad

from stable_longform.data.composition.midi import to_midi
from stable_longform.data.composition.piece import Piece
from stable_longform.utils.audio import resample
from stable_longform.utils.optional import require

SAMPLING_RATE = 44100
# Debian's packages of soundfonts, the best first, and where they install them.
SOUNDFONTS = {
    "fluid-soundfont-gm": Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    "timgm6mb-soundfont": Path("/usr/share/sounds/sf2/TimGM6mb.sf2"),
}
MAX_PEAK, ONE_SHOT_PEAK = 0.98, 0.7
LIMITER_BLOCK, LIMITER_REACH = 64, 8  # samples; blocks around a peak in which the gain falls and rises again
SILENCE = 10 ** (-66 / 20)
END_SILENCE_IN_S, FADE_IN_S = 0.5, 0.2


def find_soundfont(path: str | os.PathLike | None = None) -> Path:
    """The soundfont to use: the given one, or the first of `SOUNDFONTS` that is installed.

    Raises:
        ValueError: there is none; the message names a Debian package that has one.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"There is no soundfont {path}.")
        return Path(path)
    for candidate in SOUNDFONTS.values():
        if candidate.is_file():
            return candidate
    raise ValueError(
        "No soundfont found: install Debian's package fluid-soundfont-gm, or the small timgm6mb-soundfont, "
        "or pass a General MIDI .sf2 file."
    )


def render(piece: Piece, soundfont: Path, max_duration_in_s: float | None = None) -> torch.Tensor:
    """Plays a piece.

    Args:
        piece: what to play.
        soundfont: a General MIDI .sf2 file.
        max_duration_in_s: longest duration; the last notes are faded out if they still sound half a second before it.

    Returns:
        The waveform, float32 `(2, num_samples)` at 44.1 kHz, at the piece's level, ending with half a second of
        silence.
    """
    waveform = _play(piece, soundfont)
    gain = _mastering_gain(piece, waveform, max_duration_in_s)
    return _fit(waveform, len(gain)) * gain


def render_stems(
    piece: Piece, soundfont: Path, max_duration_in_s: float | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Plays a piece part by part; arguments as in `render`.

    Returns:
        The waveform, and the waveforms of the roles, which add up to it.
    """
    parts = {part.role: _play(replace(piece, parts=(part,)), soundfont) for part in piece.parts}
    num_samples = max(part.shape[1] for part in parts.values())
    mix = torch.zeros(2, num_samples)
    for part in parts.values():
        mix += _fit(part, num_samples)
    gain = _mastering_gain(piece, mix, max_duration_in_s)
    return _fit(mix, len(gain)) * gain, {role: _fit(part, len(gain)) * gain for role, part in parts.items()}


@lru_cache(maxsize=1)
def _read_soundfont(path: Path) -> bytes:
    """Reads a soundfont; its bytes are cached for the next piece."""
    return path.read_bytes()


def _play(piece: Piece, soundfont: Path) -> torch.Tensor:
    """Renders a piece to `(2, num_samples)`, at the renderer's level.

    Raises:
        ValueError: the file is not a soundfont.
    """
    renderer = require("midirenderer", "train")
    try:
        wave = renderer.render_wave_from(_read_soundfont(soundfont), to_midi(piece))
    except RuntimeError as error:
        raise ValueError(f"{soundfont} cannot be played: {error}") from error
    samples, rate = soundfile.read(io.BytesIO(wave), dtype="float32", always_2d=True)
    return resample(torch.from_numpy(np.ascontiguousarray(samples.T)), rate, SAMPLING_RATE)


def _fit(waveform: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Cuts a waveform to a length, or pads it with silence."""
    return pad(waveform[:, :num_samples], (0, max(0, num_samples - waveform.shape[1])))


def _mastering_gain(piece: Piece, waveform: torch.Tensor, max_duration_in_s: float | None) -> torch.Tensor:
    """The gain of each sample `(num_samples,)`: it sets the level, limits peaks, and ends with a fade and silence.

    Its length is that of the finished waveform.
    """
    peaks = waveform.abs().amax(dim=0)
    if piece.kind == "one-shot":
        level = ONE_SHOT_PEAK / peaks.max()
    else:
        level = 10 ** (piece.level_in_dbfs / 20) / waveform.square().mean().sqrt()
    gain = level * limiter_gain(peaks * level)
    end = int((peaks * gain > SILENCE).nonzero()[-1]) + 1
    if max_duration_in_s is not None:
        end = min(end, int((max_duration_in_s - END_SILENCE_IN_S) * SAMPLING_RATE))
    fade = min(round(FADE_IN_S * SAMPLING_RATE), end)
    gain[end - fade : end] *= torch.linspace(1, 0, fade)
    return pad(gain[:end], (0, round(END_SILENCE_IN_S * SAMPLING_RATE)))


def limiter_gain(peaks: torch.Tensor) -> torch.Tensor:
    """A gain that keeps peaks `(num_samples,)` below `MAX_PEAK`: it falls and rises within 12 ms around each."""
    num_samples = len(peaks)
    blocks = pad(peaks, (0, -num_samples % LIMITER_BLOCK)).view(-1, LIMITER_BLOCK).amax(dim=1)
    needed = (MAX_PEAK / blocks.clamp(min=MAX_PEAK))[None, None]
    lowest = -max_pool1d(-needed, 2 * LIMITER_REACH + 1, stride=1, padding=LIMITER_REACH)
    reach = LIMITER_REACH - 1
    smoothed = conv1d(pad(lowest, (reach, reach), mode="replicate"), torch.ones(1, 1, 2 * reach + 1) / (2 * reach + 1))
    gain = interpolate(smoothed, size=len(blocks) * LIMITER_BLOCK, mode="linear", align_corners=False)
    return gain[0, 0, :num_samples]
