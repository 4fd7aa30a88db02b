import pytest
import torch

from stable_longform.utils.pictures import draw_music, envelope


@pytest.mark.parametrize("num_samples", [1, 500, 44100, 3000001])
def test_music_of_any_length_is_drawn(tmp_path, num_samples):
    draw_music(torch.randn(2, num_samples) * 0.1, 44100, tmp_path / "music.png", [(0.0, 0.01)])
    assert 1000 < (tmp_path / "music.png").stat().st_size < 500_000


def test_an_envelope_has_the_peaks_where_they_are():
    mono = torch.zeros(1000)
    mono[123], mono[900] = -0.5, 0.25
    parts = envelope(mono, 10)
    assert parts.tolist() == [0, 0.5, 0, 0, 0, 0, 0, 0, 0, 0.25]
