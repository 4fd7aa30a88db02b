"""The command line, run in this process on a tiny random checkpoint, and as a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from tiny_pipeline import tiny_pipeline

from stable_longform import AutoencoderOobleck, LongFormMusicPipeline, __version__
from stable_longform.cli import main
from stable_longform.cli.generate import DEFAULT_STEPS
from stable_longform.utils.audio import read_audio, read_tags, write_audio

RATE = 8000
WINDOW_IN_S = 128 * 32 / RATE


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Random weights; a window of 128 frames of 32 samples: 0.512 s."""
    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    pipe = tiny_pipeline(sampling_rate=RATE, sample_size=128)
    pipe.vae.decoder.conv2.weight_g.data *= 0.02  # well within full scale
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def generate(checkpoint, tmp_path):
    """Runs `generate` in few steps and returns the file, whose name is `output`."""

    def run(*arguments: str, output: str = "a.flac") -> Path:
        path = tmp_path / output
        options = ["--steps", "3", "--device", "cpu", "--checkpoint", str(checkpoint), "-o", str(path)]
        assert main(["generate", *options, *arguments]) == 0
        return path

    return run


def settings_of(path: Path) -> dict:
    return json.loads(read_tags(path)["comment"])


def rescale_output(checkpoint: Path, folder: Path, factor: float) -> Path:
    """A copy of the checkpoint whose autoencoder's output is multiplied by a factor."""
    shutil.copytree(checkpoint, folder)
    vae = AutoencoderOobleck.from_pretrained(folder, subfolder="vae")
    vae.decoder.conv2.weight_g.data *= factor
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.mark.parametrize(
    ("name", "sample_format", "subtype"),
    [
        ("a.wav", None, "PCM_16"),
        ("a.wav", "pcm24", "PCM_24"),
        ("a.wav", "float", "FLOAT"),
        ("a.flac", None, "PCM_24"),
        ("a.flac", "pcm16", "PCM_16"),
        ("a.OGG", None, "VORBIS"),
    ],
)
def test_generate_writes_every_format(generate, capsys, name, sample_format, subtype):
    options = ["--sample-format", sample_format] if sample_format else []
    path = generate("piano", "--duration", "0.2001", "--seed", "1", *options, output=name)
    info = soundfile.info(path)
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (round(0.2001 * RATE), RATE, 2, subtype)
    assert read_audio(path)[0].abs().max() > 1e-3
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{path}\n"
    assert "3/3" in stderr
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_tags_hold_prompt_seed_settings_and_checkpoint(generate, checkpoint, name):
    path = generate(
        "ambient \u266b | piano", "--duration", "0.1", "--seed", "7", "--negative-prompt", "drums", output=name
    )
    tags = read_tags(path)
    assert tags["title"] == "ambient \u266b | piano"
    assert tags["software"].startswith(f"stable_longform {__version__}")
    assert json.loads(tags["comment"]) == {
        "prompt": "ambient \u266b | piano",
        "negative_prompt": "drums",
        "seed": 7,
        "duration_in_s": 0.1,
        "num_inference_steps": 3,
        "guidance_scale": 7.0,
        "guidance_rescale": 0.0,
        "gain": 1.0,
        "checkpoint": str(checkpoint),
        "dtype": "float32",
        "device": "cpu",
        "version": __version__,
    }


def test_result_is_the_pipelines(generate, checkpoint):
    path = generate(
        "piano", "--duration", "0.25", "--seed", "5", "--negative-prompt", "drums", "--guidance-scale", "3",
        "--guidance-rescale", "0.5", "--sample-format", "float", output="a.wav",
    )  # fmt: skip
    expected = LongFormMusicPipeline.from_pretrained(checkpoint)(
        "piano",
        0.25,
        negative_prompt="drums",
        num_inference_steps=3,
        guidance_scale=3.0,
        guidance_rescale=0.5,
        generator=torch.Generator().manual_seed(5),
    ).audios[0]
    assert torch.equal(read_audio(path)[0], expected)


def test_same_command_gives_the_same_file_and_every_option_changes_it(generate):
    base = ["piano", "--duration", "0.2", "--seed", "1"]
    first = generate(*base, output="first.flac").read_bytes()
    assert generate(*base, output="second.flac").read_bytes() == first
    waveform, _ = read_audio(generate(*base))
    for change in (
        ["--seed", "2"],
        ["--negative-prompt", "drums"],
        ["--guidance-scale", "2"],
        ["--guidance-rescale", "1"],
        ["--steps", "4"],
        ["--dtype", "bfloat16"],
    ):
        assert not torch.equal(read_audio(generate(*base, *change))[0], waveform), change
    assert not torch.equal(read_audio(generate("strings", *base[1:]))[0], waveform)


def test_random_seed_is_reported_and_makes_the_file_again(generate, capsys):
    first = generate("piano", "--duration", "0.2", output="first.flac")
    seed = settings_of(first)["seed"]
    assert f"seed: {seed}\n" in capsys.readouterr().err
    again = generate("piano", "--duration", "0.2", "--seed", str(seed), output="again.flac")
    assert again.read_bytes() == first.read_bytes()
    assert settings_of(generate("piano", "--duration", "0.2"))["seed"] != seed


def test_defaults(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "piano", "--checkpoint", str(checkpoint)]) == 0
    assert soundfile.info("music.wav").frames == WINDOW_IN_S * RATE
    settings = settings_of(tmp_path / "music.wav")
    assert (settings["duration_in_s"], settings["num_inference_steps"]) == (WINDOW_IN_S, DEFAULT_STEPS)


def test_prompt_file_is_the_prompt(generate, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("\ufeffambient,\n  piano\n", encoding="utf-8")
    from_file = generate("--prompt-file", str(file), "--seed", "1", output="file.flac")
    assert settings_of(from_file)["prompt"] == "ambient, piano"
    assert from_file.read_bytes() == generate("ambient, piano", "--seed", "1").read_bytes()


def test_loud_audio_is_turned_down_not_clipped(generate, checkpoint, tmp_path, capsys):
    quiet, _ = read_audio(generate("piano", "--seed", "1"))
    factor = 4 / quiet.abs().max().item()
    loud = rescale_output(checkpoint, tmp_path / "loud", factor)
    path = generate("piano", "--seed", "1", "--checkpoint", str(loud), output="loud.flac")
    waveform, _ = read_audio(path)
    assert settings_of(path)["gain"] == pytest.approx(0.25, rel=1e-3)
    assert "turned down by 12.04 dB" in capsys.readouterr().err
    torch.testing.assert_close(waveform, quiet * factor / 4, rtol=0, atol=1e-4)


@pytest.fixture
def fails(tmp_path, capsys):
    """Runs a command that must end with exit code 2, one line on stderr and no new file; returns the line."""

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(list(arguments)) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return stderr

    return run


@pytest.fixture
def hollow(tmp_path) -> str:
    """A checkpoint that cannot be loaded, for errors that come before that."""
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/model_index.json").write_text('{"_class_name": "LongFormMusicPipeline"}')
    return str(tmp_path / "hollow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["piano", "--duration", "-3"], "--duration must be greater than 0"),
        (["piano", "--duration", "0"], "--duration must be greater than 0"),
        (["piano", "--duration", "nan"], "--duration must be greater than 0"),
        (["piano", "--duration", "long"], "'--duration'"),
        (["piano", "--steps", "0"], "'--steps'"),
        (["piano", "--seed", "-1"], "'--seed'"),
        (["piano", "--guidance-scale", "inf"], "--guidance-scale must be finite"),
        (["piano", "--guidance-rescale", "nan"], "--guidance-rescale"),
        (["piano", "--guidance-rescale", "2"], "'--guidance-rescale'"),
        (["piano", "--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (["piano", "--device", "abacus"], "--device 'abacus' is not the name of a device; here: cpu"),
        (["piano", "--device", "cpu:1"], "--device 'cpu:1' is not available; here: cpu"),
        (["piano", "--device", "meta"], "--device 'meta' is not available; here: cpu"),
        (["piano", "--sample-format", "vorbis"], "sample_format for .wav"),
        (["piano", "--unknown"], "--unknown"),
        (["piano", "strings"], "strings"),
        ([], "either PROMPT or --prompt-file"),
        (["  "], "PROMPT must be text that is not blank"),
        (["\udcff"], "PROMPT must be valid text"),
        (["piano", "--negative-prompt", ""], "--negative-prompt must be text that is not blank"),
    ],
)
def test_bad_settings(fails, hollow, tmp_path, arguments, message):
    options = ["-o", str(tmp_path / "a.wav"), "--checkpoint", hollow]
    assert message in fails("generate", *arguments, *options)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "blank"), (b" \n\t\n", "blank"), (b"\xff\xfe\x00", "not UTF-8"), (None, "No such file")],
)
def test_bad_prompt_file(fails, hollow, tmp_path, content, message):
    file = tmp_path / "prompt.txt"
    if content is not None:
        file.write_bytes(content)
    options = ["--prompt-file", str(file), "-o", str(tmp_path / "a.wav"), "--checkpoint", hollow]
    line = fails("generate", *options)
    assert message in line and str(file) in line
    assert "either PROMPT or --prompt-file" in fails("generate", "piano", *options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a.wav", "does not exist"),
        ("a\nb.mp3", "a b.mp3: the extension must be one of .wav, .flac, .ogg"),
        ("a", "the extension must be one of"),
        ("folder.wav", "is a folder"),
        ("/proc/a.wav", "cannot be written"),
        ("x" * 300 + ".wav", "File name too long"),
    ],
)
def test_unwritable_path(fails, hollow, tmp_path, name, message):
    (tmp_path / "folder.wav").mkdir()
    source = tmp_path / "source.wav"
    write_audio(source, torch.zeros(2, 100), RATE)
    options = ["-o", str(tmp_path / name), "--checkpoint", hollow]
    assert message in fails("generate", "piano", *options)
    assert message in fails("reconstruct", str(source), *options)


@pytest.mark.parametrize("duration", ["900", "0.513"])
def test_duration_beyond_the_window(fails, checkpoint, tmp_path, duration):
    options = ["--duration", duration, "-o", str(tmp_path / "a.flac"), "--checkpoint", str(checkpoint)]
    assert f"duration must be in (0, 0.512] seconds, got {float(duration)}" in fails("generate", "piano", *options)


def make_bad_checkpoint(kind: str, checkpoint: Path, folder: Path) -> None:
    """Leaves something at `folder` that is not a checkpoint."""
    if kind == "file":
        folder.write_text("not a folder")
    elif kind == "empty folder":
        folder.mkdir()
    elif kind != "nothing":
        shutil.copytree(checkpoint, folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    if kind == "index is not JSON":
        (folder / "model_index.json").write_text("hello")
    elif kind == "index names nothing":
        (folder / "model_index.json").write_text("{}")
    elif kind == "index without components":
        (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    elif kind == "no autoencoder":
        shutil.rmtree(folder / "vae")
    elif kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "weights of another shape":
        config = json.loads((folder / "vae/config.json").read_text())
        (folder / "vae/config.json").write_text(json.dumps(config | {"decoder_channels": 8}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "is not a checkpoint: there is no such folder"),
        ("file", "is not a checkpoint but a file"),
        ("empty folder", "is not a checkpoint: it has no model_index.json"),
        ("index is not JSON", "is not a checkpoint: its model_index.json is not JSON"),
        ("index names nothing", "is not a checkpoint: its model_index.json names no pipeline"),
        ("index without components", "expected"),
        ("no autoencoder", "config.json"),
        ("truncated weights", "Unable to load weights"),
        ("weights of another shape", "expected shape"),
    ],
)
def test_checkpoint_that_is_not_one(fails, checkpoint, tmp_path, kind, message):
    folder, source = tmp_path / "bad", tmp_path / "source.wav"
    make_bad_checkpoint(kind, checkpoint, folder)
    write_audio(source, torch.zeros(2, 100), RATE)
    options = ["-o", str(tmp_path / "a.flac"), "--checkpoint", str(folder)]
    assert message in fails("generate", "piano", *options)
    if kind != "index without components":  # the autoencoder in it is as good as any
        assert message in fails("reconstruct", str(source), *options)


def test_audio_that_is_not_finite_is_not_written(checkpoint, tmp_path, capsys):
    broken = rescale_output(checkpoint, tmp_path / "broken", float("nan"))
    assert main(["generate", "piano", "--steps", "2", "-o", str(tmp_path / "a.wav"), "--checkpoint", str(broken)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: The model returned audio that is not finite")
    assert not (tmp_path / "a.wav").exists()


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
    assert settings_of(path)["input"] == "source.wav"


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
        (torch.full((2, 100), float("nan")), "not finite"),
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


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["generate", "--help"], ["reconstruct", "--help"], ["--version"]]
)
def test_help_and_version(capsys, arguments):
    assert main(arguments) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert __version__ in stdout if "--version" in arguments else "Usage: stable-longform" in stdout


def run_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_help_does_not_wait_for_the_models():
    code = "import sys; from stable_longform.cli import main; main(['--help']); print('diffusers' in sys.modules)"
    assert run_process("-c", code).stdout.splitlines()[-1] == "False"


def test_process(checkpoint, tmp_path):
    path = tmp_path / "a.flac"
    options = ["--duration", "0.2", "--steps", "2", "--seed", "1", "-o", str(path), "--checkpoint", str(checkpoint)]
    done = run_process("-m", "stable_longform.cli", "generate", "piano", *options)
    assert (done.returncode, done.stdout) == (0, f"{path}\n")
    assert "2/2" in done.stderr and "warn" not in done.stderr.lower()
    assert soundfile.info(path).frames == 0.2 * RATE


def test_hub_checkpoint_that_cannot_be_fetched(tmp_path):
    options = ["-o", str(tmp_path / "a.flac"), "--checkpoint", "no-such-owner/no-such-model"]
    done = run_process("-m", "stable_longform.cli", "generate", "piano", *options, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 'no-such-owner/no-such-model' is no folder, and fetching it from the Hub")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
