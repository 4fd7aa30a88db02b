"""`stable-longform reconstruct`: a file through the autoencoder of a tiny random checkpoint."""

import pytest
import soundfile
import torch

from stable_longform import AutoencoderOobleck
from stable_longform.cli import main
from stable_longform.music_files import read_values
from stable_longform.utils.audio import read_audio, write_audio

RATE = 8000


@pytest.mark.parametrize("num_samples", [1, 100, 10000])  # at most 4096 in a chunk
def test_reconstruct_is_the_autoencoders_mean(checkpoint, tmp_path, capsys, num_samples):
    source, path = tmp_path / "source.wav", tmp_path / "a.wav"
    waveform = 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(0))
    write_audio(source, waveform, RATE, "float")
    options = ["--sample-format", "float", "--device", "cpu", "--checkpoint", str(checkpoint)]
    assert main(["reconstruct", str(source), "-o", str(path), *options]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    result, rate = read_audio(path)
    assert (result.shape, rate) == (waveform.shape, RATE)
    vae = AutoencoderOobleck.from_pretrained(checkpoint, subfolder="vae")
    vae.disable_tiling()
    with torch.no_grad():
        expected = vae(waveform[None]).sample[0]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-4
    assert read_values(path)["input"] == "source.wav"


def test_reconstruct_resamples_and_makes_stereo(checkpoint, tmp_path):
    source, path = tmp_path / "source.flac", tmp_path / "a.ogg"
    write_audio(source, 0.1 * torch.randn(1, 6000, generator=torch.Generator().manual_seed(0)), 2 * RATE)
    assert main(["reconstruct", str(source), "-o", str(path), "--checkpoint", str(checkpoint)]) == 0
    info = soundfile.info(path)
    assert (info.frames, info.samplerate, info.channels) == (3000, RATE, 2)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(3, 100), "1 or 2 channels"),
        (torch.full((2, 100), float("nan")), "non-finite"),
        (None, "cannot be read as audio"),
    ],
)
def test_bad_input_audio(fails, checkpoint, tmp_path, waveform, message):
    source = tmp_path / "source.wav"
    source.write_text("no audio")
    if waveform is not None:
        write_audio(source, waveform, RATE, "float")
    options = ["--checkpoint", str(checkpoint)]
    assert message in fails("reconstruct", str(source), "-o", str(tmp_path / "a.wav"), *options)
    assert "is the input" in fails("reconstruct", str(source), "-o", str(source), *options)
    assert "cannot be read" in fails(
        "reconstruct", str(tmp_path / "none.wav"), "-o", str(tmp_path / "a.wav"), *options
    )
