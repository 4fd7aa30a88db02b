"""Random crops of waveforms for training: the autoencoder's and CLAP's input.

Every item is a pure function of `(seed, index)`, so a run resumed at any step sees exactly the data that an
undisturbed one would have seen, on any number of processes.
"""

from collections.abc import Sequence

import numpy as np
import soundfile
import torch
import torch.nn.functional as F

from stable_longform.data.manifest import Track, draw_index
from stable_longform.utils.audio import read_audio, to_stereo

SILENCE_PEAK = 10 ** (-60 / 20)  # crops quieter than -60 dBFS are drawn again, as in the code of the paper
MAX_DRAWS = 20


class AudioCrops(torch.utils.data.Dataset):
    """Stereo crops `(2, num_samples)` at random places of random tracks; only the crop is read from disk.

    Args:
        tracks: drawn in proportion to weight times duration.
        num_samples: length of a crop at `sampling_rate`; a shorter track is completed with silence.
        sampling_rate: Hz; files of another rate are resampled.
        seed: of the whole sequence.
        phase_flip_probability: how often the crop's sign is flipped. Paper code: 0.5.

    Raises:
        ValueError: no tracks, or `MAX_DRAWS` silent crops in a row.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        num_samples: int,
        sampling_rate: int = 44100,
        seed: int = 0,
        phase_flip_probability: float = 0.5,
    ):
        if not tracks:
            raise ValueError("tracks must hold at least one track, got none.")
        self.tracks, self.num_samples, self.sampling_rate = tracks, num_samples, sampling_rate
        self.seed, self.phase_flip_probability = seed, phase_flip_probability
        self.weights = [track.weight * track.duration_in_s for track in tracks]

    def __len__(self) -> int:
        return 2**31  # an endless sequence; the sampler chooses the range

    def __getitem__(self, index: int) -> dict:
        """Gives `{"waveform": (2, num_samples), "track": its number, "start_in_s": float}`."""
        rng = np.random.default_rng([self.seed, index])
        for _ in range(MAX_DRAWS):
            number = draw_index(self.weights, rng)
            waveform, start_in_s = random_crop(self.tracks[number], self.num_samples, self.sampling_rate, rng)
            if waveform.abs().max() >= SILENCE_PEAK:
                break
        else:
            raise ValueError(f"{MAX_DRAWS} crops in a row were silent; the last was of {self.tracks[number].path}.")
        if rng.random() < self.phase_flip_probability:
            waveform = -waveform
        return {"waveform": waveform.clamp(-1, 1), "track": number, "start_in_s": start_in_s}


def random_crop(
    track: Track, num_samples: int, sampling_rate: int, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Reads `(2, num_samples)` of a track from a random second on; a short track is completed with silence."""
    duration_in_s = num_samples / sampling_rate
    file_rate = soundfile.info(track.path).samplerate
    start_in_s = rng.random() * max(track.duration_in_s - duration_in_s, 0.0)
    length_in_s = duration_in_s if file_rate == sampling_rate else duration_in_s + 0.01
    waveform, _ = read_audio(track.path, start_in_s, length_in_s, sampling_rate)
    waveform = to_stereo(waveform)[:, :num_samples]
    return F.pad(waveform, (0, num_samples - waveform.shape[1])), start_in_s
