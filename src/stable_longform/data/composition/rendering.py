"""Pieces as sound: a General MIDI soundfont played by midirenderer."""

import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch

from stable_longform.data.composition.midi import to_midi
from stable_longform.data.composition.piece import Piece
from stable_longform.utils.audio import resample
from stable_longform.utils.optional import require

SAMPLING_RATE = 44100
# Debian's packages of soundfonts, the better first, and where they put them.
SOUNDFONTS = {
    "fluid-soundfont-gm": Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    "timgm6mb-soundfont": Path("/usr/share/sounds/sf2/TimGM6mb.sf2"),
}
TARGET_RMS, MAX_PEAK = 0.16, 0.98  # -16 dBFS
LIMITER_BLOCK, LIMITER_REACH = 64, 8  # samples, and blocks around a peak in which the gain goes down and up again
SILENCE = 10 ** (-66 / 20)
END_SILENCE_IN_S, FADE_IN_S = 0.5, 0.1


def find_soundfont(path: str | os.PathLike | None = None) -> Path:
    """The soundfont to use: that given, or the first of `SOUNDFONTS` that is there.

    Raises:
        ValueError: there is none; says which Debian package has one.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"There is no soundfont {path}.")
        return Path(path)
    for candidate in SOUNDFONTS.values():
        if candidate.is_file():
            return candidate
    raise ValueError(
        "No soundfont found: install one (`apt-get install fluid-soundfont-gm`, or the small `timgm6mb-soundfont`), "
        "or name a .sf2 file."
    )


@lru_cache(maxsize=1)
def _read_soundfont(path: Path) -> bytes:
    """The bytes of a soundfont, kept for the next piece."""
    return path.read_bytes()


def render(piece: Piece, soundfont: Path) -> torch.Tensor:
    """Plays a piece: float32 `(2, num_samples)` at 44.1 kHz, -16 dBFS RMS, half a second of silence at its end."""
    renderer = require("midirenderer", "train")
    wave = renderer.render_wave_from(_read_soundfont(soundfont), to_midi(piece))
    samples, rate = soundfile.read(io.BytesIO(wave), dtype="float32", always_2d=True)
    waveform = resample(torch.from_numpy(np.ascontiguousarray(samples.T)), rate, SAMPLING_RATE)
    return finish(waveform)


def finish(waveform: torch.Tensor) -> torch.Tensor:
    """Sets the level, and ends the waveform half a second after it has died away."""
    waveform = limit(waveform * (TARGET_RMS / waveform.square().mean().sqrt().item()))
    loud = (waveform.abs().amax(dim=0) > SILENCE).nonzero()
    end = int(loud[-1]) + 1
    fade = min(round(FADE_IN_S * SAMPLING_RATE), end)
    waveform[:, end - fade : end] *= torch.linspace(1, 0, fade)
    waveform[:, end:] = 0
    needed = end + round(END_SILENCE_IN_S * SAMPLING_RATE)
    return torch.nn.functional.pad(waveform, (0, max(0, needed - waveform.shape[1])))[:, :needed].contiguous()


def limit(waveform: torch.Tensor) -> torch.Tensor:
    """Holds peaks below `MAX_PEAK`: the gain falls and rises again over 12 ms around each, and is 1 elsewhere.

    Of both channels alike, so that the stereo image stays.
    """
    num_samples = waveform.shape[1]
    padded = torch.nn.functional.pad(waveform, (0, -num_samples % LIMITER_BLOCK))
    peaks = padded.abs().amax(dim=0).view(-1, LIMITER_BLOCK).amax(dim=1)
    needed = (MAX_PEAK / peaks.clamp(min=MAX_PEAK))[None, None]
    reach = LIMITER_REACH
    lowest = -torch.nn.functional.max_pool1d(-needed, 2 * reach + 1, stride=1, padding=reach)
    window = torch.ones(1, 1, 2 * reach - 1) / (2 * reach - 1)
    gain = torch.nn.functional.conv1d(
        torch.nn.functional.pad(lowest, (reach - 1, reach - 1), mode="replicate"), window
    )
    gain = torch.nn.functional.interpolate(gain, size=padded.shape[1], mode="linear", align_corners=False)
    return waveform * gain[0, :, :num_samples]
