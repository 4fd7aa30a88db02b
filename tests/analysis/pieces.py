"""Small pieces whose structure is known: progressions of eight chords, one every half second, again and again."""

import numpy as np
import torch

from stable_longform.analysis.features import SAMPLING_RATE

CHORD_IN_S = 0.5
CHORDS = {
    "A": ((57, 60, 64), (53, 57, 60), (60, 64, 67), (55, 59, 62)),
    "B": ((62, 65, 69), (58, 62, 65), (55, 58, 62), (57, 61, 64)),
    "C": ((64, 68, 71), (61, 64, 68), (66, 69, 73), (59, 63, 66)),
}


def render_section(letter: str, num_chords: int, is_loud: bool = True, seed: int = 0) -> np.ndarray:
    """A section, mono: a progression and a colour that `letter` alone determines, with drums if it is loud."""
    order = np.resize(np.random.default_rng(ord(letter)).integers(4, size=8), num_chords)
    harmonics = [1, 2, 3] if letter == "A" else [1, 3, 5] if letter == "B" else [1, 2, 4, 8]
    seconds = np.arange(round(CHORD_IN_S * SAMPLING_RATE)) / SAMPLING_RATE
    noise = np.random.default_rng(seed)
    chords = []
    for index in order:
        pitches = np.array(CHORDS[letter][index])
        frequencies = 440 * 2 ** ((pitches - 69) / 12)
        tones = sum(np.sin(2 * np.pi * frequencies[:, None] * harmonic * seconds) / harmonic for harmonic in harmonics)
        chord = 0.08 * tones.sum(axis=0) * np.exp(-2 * seconds)
        if is_loud:
            chord += 0.1 * noise.standard_normal(len(seconds)) * np.exp(-30 * seconds)
        chords.append(chord + 1e-4 * noise.standard_normal(len(seconds)))
    return np.concatenate(chords)


def render_form(form: str, num_chords: int = 32) -> torch.Tensor:
    """A piece `(1, num_samples)`: a section for each letter, a small one without drums; 16 s a section by default."""
    sections = [render_section(letter.upper(), num_chords, letter.isupper(), seed) for seed, letter in enumerate(form)]
    return torch.from_numpy(np.concatenate(sections)).float()[None]


def shuffle_blocks(waveform: torch.Tensor, block_in_s: float, seed: int = 0) -> torch.Tensor:
    """The blocks of a piece in another order."""
    blocks = waveform.split(round(block_in_s * SAMPLING_RATE), dim=1)
    return torch.cat([blocks[index] for index in np.random.default_rng(seed).permutation(len(blocks))], dim=1)
