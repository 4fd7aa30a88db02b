"""Reading, writing and resampling: partial reads, lengths, levels, tags, whole files or nothing."""

import math
import os

import numpy as np
import pytest
import soundfile
import torch

from stable_longform.utils.audio import (
    READ_BLOCK,
    TAG_NAMES,
    check_output_path,
    read_audio,
    read_blocks,
    read_info,
    read_tags,
    resample,
    stored,
    to_stereo,
    write_audio,
)

RATE = 44100
EXTENSIONS = [".wav", ".flac", ".ogg"]


def noise(num_samples: int, channels: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(channels, num_samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def sine(frequency: float, sampling_rate: int, duration_in_s: float) -> torch.Tensor:
    time = torch.arange(round(sampling_rate * duration_in_s), dtype=torch.float64) / sampling_rate
    return (0.5 * torch.sin(2 * math.pi * frequency * time)).float()[None]


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.3), (0.7, 1.0), (1.2345, 0.1), (1.9, 5.0), (0.5, None)])
def test_partial_read_equals_slice_of_whole(tmp_path, extension, start, duration):
    path = tmp_path / f"noise{extension}"
    write_audio(path, noise(2 * RATE), RATE)
    whole, _ = read_audio(path)
    part, sampling_rate = read_audio(path, start, duration)
    first = round(start * RATE)
    last = whole.shape[1] if duration is None else first + round(duration * RATE)
    assert sampling_rate == RATE
    assert torch.equal(part, whole[:, first:last])


@pytest.mark.parametrize(("sample_format", "step"), [("pcm16", 2**-15), ("pcm24", 2**-23), ("float", 0.0)])
def test_wav_round_trip_within_one_quantisation_step(tmp_path, sample_format, step):
    waveform = noise(1000)
    write_audio(tmp_path / "a.wav", waveform, RATE, sample_format)
    back, _ = read_audio(tmp_path / "a.wav")
    assert back.dtype == torch.float32
    assert (back - waveform).abs().max() <= step


def test_reading_converts_to_the_asked_rate(tmp_path):
    write_audio(tmp_path / "a.wav", sine(440, 48000, 1.0), 48000, "float")
    back, sampling_rate = read_audio(tmp_path / "a.wav", sampling_rate=RATE)
    assert sampling_rate == RATE
    assert torch.equal(back, resample(sine(440, 48000, 1.0), 48000, RATE))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 44100), (44100, 48000), (22050, 44100), (44100, 16000)])
@pytest.mark.parametrize("num_samples", [100, 131, 44099, 48000])
def test_resampled_length_is_the_duration_at_the_new_rate(from_rate, to_rate, num_samples):
    resampled = resample(noise(num_samples), from_rate, to_rate)
    assert resampled.shape[0] == 2
    assert abs(resampled.shape[1] - num_samples * to_rate / from_rate) <= 0.5


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 44100), (44100, 16000), (16000, 44100)])
def test_resampled_sine_keeps_frequency_and_level(from_rate, to_rate):
    resampled = resample(sine(1000, from_rate, 1.0), from_rate, to_rate)
    middle = slice(to_rate // 4, 3 * to_rate // 4)
    assert torch.allclose(resampled[:, middle], sine(1000, to_rate, 1.0)[:, middle], atol=1e-4)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    resampled = resample(sine(12000, 44100, 1.0), 44100, 16000)
    assert resampled[:, 4000:12000].abs().max() < 1e-4


def test_resampling_to_the_same_rate_changes_nothing():
    waveform = noise(10)
    assert resample(waveform, RATE, RATE) is waveform


@pytest.mark.parametrize("rates", [(0, RATE), (RATE, 0), (-1, RATE)])
def test_resample_refuses_rates_that_are_not_positive(rates):
    with pytest.raises(ValueError, match="greater than 0 Hz"):
        resample(noise(10), *rates)


def test_to_stereo():
    mono, stereo = noise(10, channels=1), noise(10)
    assert torch.equal(to_stereo(mono), torch.cat([mono, mono]))
    assert to_stereo(stereo) is stereo
    for wrong in (noise(10, channels=3), torch.zeros(10)):
        with pytest.raises(ValueError, match="1 or 2 channels"):
            to_stereo(wrong)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_tags_round_trip(tmp_path, extension):
    tags = {name: f"The {name}: \u00e9\u266b" for name in TAG_NAMES}
    path = tmp_path / f"tagged{extension}"
    write_audio(path, noise(1000), RATE, tags=tags)
    found = read_tags(path)
    assert found.pop("software").startswith(tags.pop("software"))
    assert found == tags


def test_file_without_tags_has_none(tmp_path):
    write_audio(tmp_path / "a.flac", noise(1000), RATE)
    assert read_tags(tmp_path / "a.flac") == {}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_chunked_writing_equals_whole_writing(tmp_path, extension):
    waveform = noise(3000)
    write_audio(tmp_path / f"whole{extension}", waveform, RATE)
    write_audio(tmp_path / f"chunks{extension}", (chunk for chunk in waveform.split([1, 999, 0, 2000], dim=1)), RATE)
    whole, chunks = (read_audio(tmp_path / f"{name}{extension}")[0] for name in ("whole", "chunks"))
    assert torch.equal(whole, chunks)


@pytest.mark.parametrize("extension, rate", [(".mp3", 44100), (".opus", 48000)])
def test_formats_for_listening(tmp_path, extension, rate):
    """The sound is near, in chunks too; opus has no 44.1 kHz. Tags come back, but for an mp3's program and licence."""
    seconds = torch.arange(66150) / 44100
    waveform = torch.stack([0.3 * torch.sin(2 * torch.pi * tone * seconds) for tone in (440, 660)])
    tags = {"title": "song \u266b", "comment": '{"prompt": "\u266b"}'}
    path = tmp_path / f"a{extension}"
    write_audio(path, waveform.split(7000, dim=1), 44100, tags=tags | {"software": "test"})
    result, file_rate = read_audio(path)
    expected = resample(waveform, 44100, rate)
    assert file_rate == rate and result.shape == expected.shape
    error = (result - expected)[:, 4000:-4000]
    assert error.std() < 0.02 * expected.std()
    found = read_tags(path)
    assert tags.items() <= found.items()
    if extension == ".mp3":
        with pytest.raises(ValueError, match="MP3 cannot hold the tag license"):
            write_audio(path, waveform, 44100, tags={"license": "mit"})
    else:
        assert found["software"].startswith("test")


def test_a_format_that_libsndfile_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("soundfile.available_subtypes", lambda name: {})
    with pytest.raises(ValueError, match=r"a.mp3: libsndfile [\d.]+ cannot write .mp3"):
        check_output_path(tmp_path / "a.mp3")


def test_long_ogg_is_written(tmp_path):
    """libsndfile's vorbis encoder crashes the process when it is given minutes in one call."""
    write_audio(tmp_path / "long.ogg", torch.zeros(1, 120 * RATE), RATE)
    assert soundfile.info(tmp_path / "long.ogg").frames == 120 * RATE


@pytest.mark.parametrize(
    ("name", "sample_format", "limit"),
    [("a.wav", "pcm16", 1.0), ("a.wav", "pcm24", 1.0), ("a.flac", "pcm16", 1.0), ("a.wav", "float", 3.0)],
)
def test_integer_formats_clip_and_float_does_not(tmp_path, name, sample_format, limit):
    waveform = torch.linspace(-3, 3, 601).expand(2, -1)
    write_audio(tmp_path / name, waveform, RATE, sample_format)
    back, _ = read_audio(tmp_path / name)
    assert torch.allclose(back, waveform.clamp(-limit, limit), atol=2**-14)


def test_waveforms_of_other_types_are_written_as_float32(tmp_path):
    waveform = noise(100).to(torch.bfloat16).requires_grad_()
    write_audio(tmp_path / "a.wav", waveform, RATE, "float")
    assert torch.equal(read_audio(tmp_path / "a.wav")[0], waveform.detach().float())


@pytest.mark.parametrize(
    ("start", "duration", "message"),
    [
        (-0.1, None, "start_in_s must be in"),
        (1.0, None, "start_in_s must be in"),
        (math.nan, None, "start_in_s must be finite"),
        (math.inf, None, "start_in_s must be finite"),
        (0.0, 0.0, "duration_in_s must be greater than 0"),
        (0.0, -1.0, "duration_in_s must be greater than 0"),
        (0.0, math.nan, "duration_in_s must be greater than 0"),
        (0.0, math.inf, "finite"),
    ],
)
def test_read_refuses_times_outside_the_file(tmp_path, start, duration, message):
    write_audio(tmp_path / "a.wav", noise(RATE), RATE)
    with pytest.raises(ValueError, match=message):
        read_audio(tmp_path / "a.wav", start, duration)


@pytest.mark.parametrize("function", [read_audio, read_tags])
def test_unreadable_files_are_named(tmp_path, function):
    (tmp_path / "text.wav").write_text("not audio")
    for name in ("text.wav", "missing.wav", "."):
        with pytest.raises(ValueError, match="cannot be read as audio"):
            function(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "sample_format", "message"),
    [
        ("a.m4a", None, "extension must be one of"),
        ("a", None, "extension must be one of"),
        ("a.flac", "float", "sample_format for .flac must be one of"),
        ("a.ogg", "pcm16", "sample_format for .ogg must be one of"),
        ("folder.wav", None, "is a folder"),
        ("missing/a.wav", None, "does not exist"),
    ],
)
def test_impossible_outputs_are_refused_before_any_work(tmp_path, name, sample_format, message):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ValueError, match=message):
        check_output_path(tmp_path / name, sample_format)
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / name, noise(10), RATE, sample_format)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="no permission"):
        check_output_path(tmp_path / "a.wav")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.FLAC", "PCM_24"), ("a.ogg", "VORBIS")])
def test_default_formats(tmp_path, name, subtype):
    assert check_output_path(tmp_path / name) == subtype
    write_audio(tmp_path / name, noise(1000), RATE)
    assert soundfile.info(tmp_path / name).subtype == subtype


@pytest.mark.parametrize(
    ("waveform", "sampling_rate", "tags", "message"),
    [
        ([], RATE, None, "no chunk"),
        (torch.zeros(2, 0), RATE, None, "no samples"),
        ([torch.zeros(2, 0), torch.zeros(2, 0)], RATE, None, "no samples"),
        (torch.zeros(10), RATE, None, r"waveform must be \(channels, num_samples\)"),
        ([torch.zeros(2, 10), torch.zeros(1, 10)], RATE, None, "2 channels"),
        (torch.zeros(2, 10), 0, None, "sampling_rate must be"),
        (torch.zeros(2, 10), 44100.0, None, "sampling_rate must be"),
        (torch.zeros(2, 10), RATE, {"mood": "calm"}, "Tag names must be among"),
        (torch.zeros(2, 10), RATE, {"title": ""}, "tag title must be text"),
        (torch.zeros(2, 10), RATE, {"title": 3}, "tag title must be text"),
    ],
)
def test_refused_writing_leaves_nothing(tmp_path, waveform, sampling_rate, tags, message):
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / "a.flac", waveform, sampling_rate, tags=tags)
    assert list(tmp_path.iterdir()) == []


def test_failure_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, noise(10), RATE)
    before = path.read_bytes()

    def chunks():
        yield noise(10)
        raise RuntimeError("the decoder failed")

    with pytest.raises(RuntimeError, match="the decoder failed"):
        write_audio(path, chunks(), RATE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_opus_decodes(tmp_path):
    tone = np.stack([sine(440, 48000, 1.0)[0].numpy()] * 2, axis=1)
    soundfile.write(tmp_path / "a.opus", tone, 48000, format="OGG", subtype="OPUS")
    waveform, sampling_rate = read_audio(tmp_path / "a.opus")
    assert sampling_rate == 48000 and waveform.shape == (2, 48000)
    assert np.corrcoef(waveform[0, 4800:].numpy(), tone[4800:, 0])[0, 1] > 0.99


@pytest.mark.parametrize("num_samples", [1, 2**18 - 1, 2**18, 2**18 + 7, 3 * 2**18])
@pytest.mark.parametrize("sampling_rate", [None, 44100, 48000, 22050])
def test_blocks_together_are_the_file(tmp_path, make_audio, num_samples, sampling_rate):
    """Lengths around the edges of blocks, and resampling across them."""
    write_audio(tmp_path / "a.wav", make_audio(num_samples), RATE, "float")
    blocks = list(read_blocks(tmp_path / "a.wav", sampling_rate))
    expected, _ = read_audio(tmp_path / "a.wav", sampling_rate=sampling_rate)
    assert len(blocks) >= num_samples // 2**18 and all(block.shape[1] > 0 for block in blocks)
    together = torch.cat(blocks, dim=1) if blocks else torch.zeros(2, 0)
    assert together.shape == expected.shape
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-6)


def test_blocks_of_what_is_no_audio(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match="cannot be read as audio"):
        next(read_blocks(tmp_path / "a.wav"))
    with pytest.raises(ValueError, match="cannot be read as audio"):
        next(read_blocks(tmp_path / "missing.wav"))
    with pytest.raises(ValueError, match="greater than 0 Hz, got -1"):
        next(read_blocks(tmp_path / "a.wav", -1))


def test_stored_chunks_come_back_with_their_peak_and_leave_nothing(tmp_path):
    chunks = [torch.randn(2, 1000), torch.tensor([[0.5], [-7.25]]), torch.randn(2, 3).double()]
    with stored(iter(chunks), tmp_path) as (again, peak):
        again = list(again)
    assert peak == max(float(chunk.abs().max()) for chunk in chunks)
    assert all(torch.equal(chunk.float(), other) for chunk, other in zip(chunks, again, strict=True))
    with stored([], tmp_path) as (again, peak):
        assert list(again) == [] and peak == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("sampling_rate", [None, 48000, 44100, 32000, 16000, 44101])
def test_a_part_is_what_the_whole_has_there(tmp_path, extension, sampling_rate):
    """From the first sample to the last, also where the decoder jumps and where the rates rarely meet."""
    own_rate, path = 48000, tmp_path / f"a.{extension}"
    options = {"opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"}}
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.2 * rng.standard_normal((3 * own_rate, 2)), own_rate, **options.get(extension, {}))
    whole, rate = read_audio(path, sampling_rate=sampling_rate)
    for start_in_s in (0.0, *rng.uniform(0, 2.9, 6), whole.shape[1] / rate - 0.01):
        part, _ = read_audio(path, start_in_s, 0.3, sampling_rate)
        start = round(start_in_s * rate)
        expected = whole[:, start : start + round(0.3 * rate)]
        torch.testing.assert_close(part, expected, rtol=0, atol=0 if rate == own_rate else 1e-5)


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3"])
def test_blocks_are_what_the_decoder_gives_in_one_go(tmp_path, extension):
    """soundfile jumps after each read, from which ogg and mp3 come back with other samples."""
    path, options = tmp_path / f"a.{extension}", {}
    if extension == "mp3":  # a low bit rate spreads frames over several
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": 0.9}
    seconds = np.arange(2 * READ_BLOCK + 1000) / RATE
    waveform = np.stack([0.3 * np.sin(2 * np.pi * frequency * seconds) for frequency in (440, 550)], axis=1)
    with soundfile.SoundFile(path, "w", RATE, 2, **options) as file:
        for block in np.array_split(waveform, 10):  # libsndfile's vorbis encoder cannot take much at once
            file.write(block)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    assert np.array_equal(torch.cat(list(read_blocks(path)), dim=1).numpy(), expected)
    assert np.array_equal(read_audio(path)[0].numpy(), expected)


def test_a_pipe_a_folder_and_a_circle_of_links_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe", "circle", "folder"):
        with pytest.raises(ValueError, match=f"{name}.wav cannot be read as audio"):
            read_info(tmp_path / f"{name}.wav")


def test_a_name_that_is_not_utf_8_is_read(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros((1000, 2)), RATE)
    name = os.fsencode(tmp_path) + b"/caf\xe9.flac"
    os.rename(tmp_path / "a.flac", name)
    assert read_audio(os.fsdecode(name))[0].shape == (2, 1000)


def test_tags_that_a_format_cannot_hold_are_refused_before_any_work(tmp_path):
    with pytest.raises(
        ValueError, match="FLAC cannot hold the tag comment, or not at this length: 20000000 characters"
    ):
        write_audio(tmp_path / "a.flac", iter([]), RATE, tags={"comment": "x" * 20_000_000})
    for text in ("", "a\0b", "\udce9"):
        with pytest.raises(ValueError, match="The tag title must be text"):
            write_audio(tmp_path / "a.wav", iter([]), RATE, tags={"title": text})
