"""The peaks of uploaded music."""

import pytest
import torch

from stable_longform.app.uploads import check_upload
from stable_longform.utils.audio import write_audio


@pytest.mark.parametrize("num_samples", [1, 7, 600, 601, 5000, 2**18, 2**18 + 1, 600_000])
def test_peaks_are_in_their_places(tmp_path, num_samples):
    """A click is where it was, to within two peaks, however the file is read in blocks."""
    path, at = tmp_path / "click.wav", num_samples * 2 // 3
    waveform = torch.zeros(2, num_samples)
    waveform[:, at] = torch.tensor([0.5, -0.5])  # a mono mix would be silent
    write_audio(path, waveform, 8000, "float")
    _, peaks = check_upload(str(path))
    assert len(peaks) <= 600 and sum(peaks) == max(peaks) == 1.0
    assert abs(peaks.index(1.0) - len(peaks) * at / num_samples) <= 2
