"""`stable-longform generate`, run in this process on a tiny random checkpoint."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import soundfile
import torch
from tiny_pipeline import randomize_weights, tiny_transformer

from stable_longform import (
    TINY_8_STEPS_LORA,
    TINY_CHECKPOINT,
    AutoencoderOobleck,
    LongFormMusicPipeline,
    __version__,
)
from stable_longform.cli import main
from stable_longform.schedulers.scheduling import make_scheduler
from stable_longform.utils.audio import read_audio, read_tags, write_audio

RATE = 8000
WINDOW_IN_S = 128 * 32 / RATE


@pytest.fixture
def generate(checkpoint, tmp_path):
    """Runs `generate` in few steps and returns the file, whose name is `output`."""

    def run(*arguments: str, output: str = "a.flac") -> Path:
        path = tmp_path / output
        options = ["--steps", "3", "--device", "cpu", "--checkpoint", str(checkpoint), "-o", str(path)]
        assert main(["generate", "--overwrite", *options, *arguments]) == 0
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


def test_defaults_are_the_checkpoints(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    pipe.register_to_config(num_inference_steps=2, guidance_scale=1.5)
    pipe.use_scheduler("ping-pong")
    pipe.save_pretrained(tmp_path / "few_steps")
    assert main(["generate", "piano", "--checkpoint", str(tmp_path / "few_steps"), "--seed", "3"]) == 0
    assert soundfile.info("music.wav").frames == WINDOW_IN_S * RATE
    settings = settings_of(tmp_path / "music.wav")
    names = ("duration_in_s", "num_inference_steps", "guidance_scale")
    assert [settings[name] for name in names] == [WINDOW_IN_S, 2, 1.5]
    expected = pipe("piano", generator=torch.Generator().manual_seed(3)).audios[0]
    torch.testing.assert_close(read_audio("music.wav")[0], expected, rtol=0, atol=1e-4)


def test_each_line_of_a_file_is_a_prompt(generate, tmp_path, capsys):
    """With or without a mark of the byte order, whatever ends the lines; a line separator of Unicode ends none."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffambient,  piano\r\n\r\n rock\u2028drums \n".encode())
    capsys.readouterr()
    generate("--prompt-file", str(file), "--seed", "1", "--variations", "2")
    paths = [tmp_path / f"a-{number}.flac" for number in range(1, 5)]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    made = [(settings_of(path)["prompt"], settings_of(path)["seed"]) for path in paths]
    assert made == [("ambient,  piano", 1), ("ambient,  piano", 2), ("rock\u2028drums", 1), ("rock\u2028drums", 2)]
    assert paths[1].read_bytes() == generate("ambient,  piano", "--seed", "2").read_bytes()
    file.write_text("one prompt")
    assert settings_of(generate("--prompt-file", str(file)))["prompt"] == "one prompt"


def test_many_files_sort_by_their_numbers(generate, tmp_path):
    generate("piano", "--duration", "0.05", "--steps", "1", "--seed", "1", "--variations", "10")
    assert [path.name for path in sorted(tmp_path.glob("a*"))][::9] == ["a-01.flac", "a-10.flac"]


def test_no_prompt_is_the_pipelines_none(generate, checkpoint):
    path = generate("", "--seed", "5", "--negative-prompt", "", "--sample-format", "float", output="a.wav")
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    expected = pipe("", num_inference_steps=3, generator=torch.Generator().manual_seed(5)).audios[0]
    assert torch.equal(read_audio(path)[0], expected)
    assert read_tags(path)["title"] == "(no prompt)" and settings_of(path)["prompt"] == ""


def test_interval_start_total_window_and_scheduler_are_the_pipelines(generate, checkpoint):
    path = generate(
        "piano", "--duration", "0:00.2", "--seed", "5", "--guidance-interval", "0.2", "0.9", "--start", "1:30",
        "--total", "0:02:00", "--window", "0.3", "--scheduler", "sde-dpmsolver++", "--sample-format", "float",
        output="a.wav",
    )  # fmt: skip
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    pipe.scheduler = make_scheduler(algorithm_type="sde-dpmsolver++")
    arguments = {"seconds_start": 90.0, "seconds_total": 120.0, "window_in_s": 0.3, "guidance_interval": (0.2, 0.9)}
    generator = torch.Generator().manual_seed(5)
    expected = pipe("piano", 0.2, num_inference_steps=3, generator=generator, **arguments).audios[0]
    assert torch.equal(read_audio(path)[0], expected)
    stored = settings_of(path)
    assert stored["guidance_interval"] == [0.2, 0.9] and stored["scheduler"] == "sde-dpmsolver++"
    assert {name: stored[name] for name in ("seconds_start", "seconds_total", "window_in_s")} == {
        name: arguments[name] for name in ("seconds_start", "seconds_total", "window_in_s")
    }


def test_an_adapter_is_heard_at_its_scale(generate, checkpoint, tmp_path):
    transformer = tiny_transformer(sample_size=128)
    transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    randomize_weights(transformer, seed=9, std=0.3)
    transformer.save_lora_adapter(tmp_path / "lora")
    base = ["piano", "--seed", "1", "--sample-format", "float"]
    plain, _ = read_audio(generate(*base, output="plain.wav"))
    adapter = ["--lora", str(tmp_path / "lora")]
    assert torch.equal(read_audio(generate(*base, *adapter, "--lora-scale", "0", output="none.wav"))[0], plain)
    path = generate(*base, *adapter, "--lora-scale", "0.5", output="half.wav")
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    pipe.load_lora_weights(tmp_path / "lora", adapter_name="mine")
    pipe.set_adapters("mine", 0.5)
    expected = pipe("piano", num_inference_steps=3, generator=torch.Generator().manual_seed(1)).audios[0]
    assert torch.equal(read_audio(path)[0], expected) and not torch.equal(expected, plain)
    assert (settings_of(path)["lora"], settings_of(path)["lora_scale"]) == (str(tmp_path / "lora"), 0.5)


def test_the_adapter_inside_the_package_has_a_name(tmp_path):
    settings = ["--steps", "2", "--guidance-scale", "1", "--duration", "1", "--seed", "1", "--sample-format", "float"]
    path = tmp_path / "a.wav"
    assert main(["generate", "piano", "--lora", "tiny-8-steps", *settings, "--quiet", "-o", str(path)]) == 0
    assert settings_of(path)["lora"] == "tiny-8-steps"
    pipe = LongFormMusicPipeline.from_pretrained(TINY_CHECKPOINT)
    pipe.load_lora_weights(TINY_8_STEPS_LORA)
    call = {"num_inference_steps": 2, "guidance_scale": 1.0, "generator": torch.Generator().manual_seed(1)}
    assert torch.equal(read_audio(path)[0], pipe("piano", 1.0, **call).audios[0])


@pytest.mark.parametrize("extension", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_a_file_can_be_made_again_or_changed_in_one_thing(generate, tmp_path, monkeypatch, extension):
    monkeypatch.setenv("STABLE_LONGFORM_CHECKPOINT", "nowhere")  # the checkpoint of the file counts
    first = generate(
        "piano \u266b",
        "--duration",
        "0.2",
        "--guidance-interval",
        "0",
        "0.9",
        "--window",
        "0.3",
        output="a" + extension,
    )
    again, other = tmp_path / f"b{extension}", tmp_path / f"c{extension}"
    assert main(["generate", "--from", str(first), "-o", str(again), "--device", "cpu"]) == 0
    assert torch.equal(read_audio(again)[0], read_audio(first)[0])
    assert settings_of(again) == settings_of(first)
    assert main(["generate", "strings", "--from", str(first), "-o", str(other), "--steps", "2"]) == 0
    changed = {"prompt": "strings", "num_inference_steps": 2}
    assert settings_of(other) == settings_of(first) | changed
    assert main(["generate", "--from", str(first), "-o", str(tmp_path / f"d{extension}"), "--variations", "2"]) == 0
    seeds = [settings_of(tmp_path / f"d-{number}{extension}")["seed"] for number in (1, 2)]
    assert seeds == [settings_of(first)["seed"], settings_of(first)["seed"] + 1]


def test_quiet_and_json(generate, capsys):
    path = generate("piano", "--duration", "0.2", "--quiet", "--json", "--variations", "2", output="a.wav")
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    rows = [json.loads(line) for line in stdout.splitlines()]
    files = [path.with_name(f"a-{number}.wav") for number in (1, 2)]
    assert rows == [{"path": str(file), **settings_of(file)} for file in files]


def test_files_are_replaced_only_when_told_to(fails, hollow, checkpoint, tmp_path):
    path = tmp_path / "a-2.wav"
    path.write_bytes(b"precious")
    options = ["-o", str(tmp_path / "a.wav"), "--checkpoint", hollow, "--variations", "2"]
    assert f"{path} exists: give --overwrite, or another name" in fails("generate", "piano", *options)
    assert path.read_bytes() == b"precious"
    source = tmp_path / "source.wav"
    write_audio(source, torch.zeros(2, 100), RATE)
    options = ["-o", str(path), "--checkpoint", str(checkpoint)]
    assert "exists" in fails("reconstruct", str(source), *options)
    assert main(["reconstruct", str(source), *options, "--overwrite", "--quiet"]) == 0
    assert soundfile.info(path).frames == 100


def test_checkpoint_and_device_from_the_environment(checkpoint, tmp_path, monkeypatch, fails):
    monkeypatch.setenv("STABLE_LONGFORM_CHECKPOINT", str(checkpoint))
    monkeypatch.setenv("STABLE_LONGFORM_DEVICE", "cpu")
    path = tmp_path / "a.wav"
    assert main(["generate", "piano", "--steps", "1", "-o", str(path)]) == 0
    assert settings_of(path)["checkpoint"] == str(checkpoint)
    monkeypatch.setenv("STABLE_LONGFORM_DEVICE", "abacus")
    assert "'abacus' is not the name of a device" in fails("generate", "piano", "-o", str(tmp_path / "b.wav"))


def test_loud_audio_is_turned_down_not_clipped(generate, checkpoint, tmp_path, capsys):
    quiet, _ = read_audio(generate("piano", "--seed", "1"))
    factor = 4 / quiet.abs().max().item()
    loud = rescale_output(checkpoint, tmp_path / "loud", factor)
    path = generate("piano", "--seed", "1", "--checkpoint", str(loud), output="loud.flac")
    waveform, _ = read_audio(path)
    assert settings_of(path)["gain"] == pytest.approx(0.25, rel=1e-3)
    assert "turned down by 12.04 dB" in capsys.readouterr().err
    torch.testing.assert_close(waveform, quiet * factor / 4, rtol=0, atol=1e-4)


def test_a_float_file_keeps_the_level_of_loud_audio(generate, checkpoint, tmp_path, capsys):
    options = ["--seed", "1", "--sample-format", "float"]
    quiet, _ = read_audio(generate("piano", *options, output="quiet.wav"))
    loud = rescale_output(checkpoint, tmp_path / "loud", 4 / quiet.abs().max().item())
    path = generate("piano", *options, "--checkpoint", str(loud), output="loud.wav")
    waveform, _ = read_audio(path)
    assert settings_of(path)["gain"] == 1 and "turned down" not in capsys.readouterr().err
    assert waveform.abs().max() == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["piano", "--duration", "-3"], "'--duration': must be a number of seconds in [0.001, 10^6], got '-3'"),
        (["piano", "--duration", "0"], "'--duration': must be a number of seconds in [0.001, 10^6], got '0'"),
        (["piano", "--duration", "nan"], "'--duration': must be a number of seconds in [0.001, 10^6], got 'nan'"),
        (["piano", "--duration", "long"], "'--duration': 'long' is neither a number of seconds nor"),
        (["piano", "--duration", "4:75"], "'4:75' is neither"),
        (["piano", "--duration", "inf"], "'--duration': must be a number of seconds in [0.001, 10^6], got 'inf'"),
        (["piano", "--window", "0"], "'--window': must be a number of seconds in [0.001, 10^6], got '0'"),
        (["piano", "--start", "-1"], "'--start': must be a number of seconds in [0, 10^6], got '-1'"),
        (["piano", "--total", "0"], "'--total': must be a number of seconds in [0.001, 10^6], got '0'"),
        (["piano", "--guidance-interval", "0.5", "2"], "--guidance-interval must be in [0, 1], got 2.0"),
        (
            ["piano", "--guidance-interval", "0.5", "0.2"],
            "--guidance-interval must be two rising times, got (0.5, 0.2)",
        ),
        (["piano", "--guidance-scale", "101"], "'--guidance-scale'"),
        (
            ["piano", "--scheduler", "euler"],
            "--scheduler must be one of dpmsolver++, ddim, sde-dpmsolver++, sde-dpmsolver++-3m, ping-pong, "
            "got 'euler'",
        ),
        (["piano", "--lora-scale", "11"], "'--lora-scale'"),
        (["piano", "--variations", "0"], "'--variations'"),
        (["piano", "--seed", str(2**63 - 1), "--variations", "2"], "--seed must be in [0, 2^63 - 1]"),
        (["piano", "--steps", "0"], "'--steps'"),
        (["piano", "--seed", "-1"], "'--seed'"),
        (["piano", "--guidance-scale", "inf"], "'--guidance-scale'"),
        (["piano", "--guidance-rescale", "nan"], "--guidance-rescale"),
        (["piano", "--guidance-rescale", "2"], "'--guidance-rescale'"),
        (["piano", "--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (["piano", "--device", "abacus"], "--device 'abacus' is not the name of a device; here: cpu"),
        (["piano", "--device", "cpu:1"], "--device 'cpu:1' is not available; here: cpu"),
        (["piano", "--device", "meta"], "--device 'meta' is not available; here: cpu"),
        (["piano", "--sample-format", "vorbis"], "sample_format for .wav"),
        (["piano", "--unknown"], "--unknown"),
        (["piano", "strings"], "strings"),
        ([], "either PROMPT, --prompt-file or --sections"),
        (["\udcff"], "PROMPT must be valid text"),
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
    assert "either PROMPT, --prompt-file or --sections" in fails("generate", "piano", *options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a.wav", "does not exist"),
        ("a\nb.m4a", "a b.m4a: the extension must be one of .wav, .flac, .ogg, .opus, .mp3"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "900"], "--duration must be in [0.001, 0.512] seconds, got 900.0"),
        (["--duration", "0.513"], "--duration must be in [0.001, 0.512] seconds, got 0.513"),
        (["--window", "0.6"], "--window must be in [0.001, 0.512] seconds, got 0.6"),
        (["--window", "0.1", "--duration", "0.2"], "--duration must be in [0.001, 0.100] seconds, got 0.2"),
        (["--total", "8:33"], "--start plus --duration, or --total, must be at most 512 seconds, got 513.0"),
        (["--start", "512"], "must be at most 512 seconds, got 512.512"),
        (["--start", "20", "--total", "10"], "--start must be before --total=10.0 seconds, got 20.0"),
    ],
)
def test_times_that_the_model_does_not_know(fails, weightless, tmp_path, arguments, message):
    options = ["-o", str(tmp_path / "a.flac"), "--checkpoint", weightless]
    assert message in fails("generate", "piano", *arguments, *options)


def test_a_section_that_starts_after_the_end(fails, weightless, tmp_path):
    (tmp_path / "sections.txt").write_text("0 a\n2 b\n")
    options = ["-o", str(tmp_path / "a.flac"), "--checkpoint", weightless]
    message = fails("generate", "--sections", str(tmp_path / "sections.txt"), *options)
    assert "must start before the end at 0.512 s, got 2 s" in message


def test_an_adapter_that_is_none(fails, checkpoint, tmp_path):
    (tmp_path / "adapter").mkdir()
    options = ["-o", str(tmp_path / "a.flac"), "--checkpoint", str(checkpoint), "--lora", str(tmp_path / "adapter")]
    assert "pytorch_lora_weights.safetensors" in fails("generate", "piano", *options)


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        (None, "has no settings in its tags: it was not made by `stable-longform generate`"),
        ("a nice song", "has no settings in its tags"),
        ('{"input": "a.wav", "version": "1"}', "has no settings in its tags"),
        ('{"prompt": "a", "seed": -1, "version": "1"}', "cannot be used: --seed must be in [0, 2^63 - 1], got -1"),
        ('{"prompt": 5, "version": "1"}', "cannot be used: PROMPT must be valid text, got 5"),
        (
            '{"prompt": "a", "duration_in_s": "1", "version": "1"}',
            "cannot be used: --duration must be a number of seconds in",
        ),
        ('{"prompt": "a", "guidance_interval": 5, "version": "1"}', "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_made_again(fails, hollow, tmp_path, comment, message):
    source = tmp_path / "source.flac"
    write_audio(source, torch.zeros(2, 100), RATE, tags={} if comment is None else {"comment": comment})
    line = fails("generate", "--from", str(source), "-o", str(tmp_path / "a.wav"), "--checkpoint", hollow)
    assert message in line and str(source) in line
    options = ["-o", str(tmp_path / "a.wav"), "--from", str(tmp_path / "none.wav")]
    assert "cannot be read as audio" in fails("generate", *options)


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
        ("file", "is a file, not a checkpoint folder"),
        ("empty folder", "is not a checkpoint: it has no model_index.json"),
        ("index is not JSON", "is not a checkpoint: its model_index.json is not JSON"),
        ("index names nothing", "is not a checkpoint: its model_index.json names no pipeline"),
        ("index without components", "names no pipeline that this one can open"),
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


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("vae", "sampling_rate", 10**9),
        ("vae", "sampling_rate", 44100.5),
        ("transformer", "sample_size", 3.5),
    ],
)
def test_a_model_that_will_not_load_sets_no_limits(fails, checkpoint, tmp_path, part, field, value):
    """Else the duration would be blamed for a configuration that is wrong."""
    folder = tmp_path / "bad"
    shutil.copytree(checkpoint, folder)
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    message = fails(
        "generate", "piano", "--duration", "0.1", "--checkpoint", str(folder), "-o", str(tmp_path / "a.wav")
    )
    assert f"{part}/config.json: {field} must be an integer" in message


def test_audio_that_is_not_finite_is_not_written(checkpoint, tmp_path, capsys):
    broken = rescale_output(checkpoint, tmp_path / "broken", float("nan"))
    assert main(["generate", "piano", "--steps", "2", "-o", str(tmp_path / "a.wav"), "--checkpoint", str(broken)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: The model returned audio that is not finite")
    assert not (tmp_path / "a.wav").exists()
