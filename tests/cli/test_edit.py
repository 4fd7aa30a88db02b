"""`stable-longform transform`, `inpaint` and `extend`, run in this process on a tiny random checkpoint."""

import json
import logging
import math

import numpy as np
import pytest
import soundfile
import torch

from stable_longform import LongFormMusicAudioToAudioPipeline, LongFormMusicPipeline
from stable_longform.cli import main
from stable_longform.utils.audio import read_audio, read_tags

RATE = 8000


@pytest.fixture
def music(tmp_path, make_audio):
    """A file of 0.2 s at the model's rate, in float."""
    path = tmp_path / "music.wav"
    soundfile.write(path, make_audio(1600, sampling_rate=RATE).numpy().T, RATE, subtype="FLOAT")
    return path


@pytest.fixture
def run(checkpoint, tmp_path):
    """Runs a command in few steps and returns what it wrote and its settings."""

    def edit(command: str, *arguments: str):
        path = tmp_path / "result.wav"
        options = ["--steps", "2", "--seed", "3", "--device", "cpu", "--checkpoint", str(checkpoint), "-o", str(path)]
        assert main([command, *arguments, "--overwrite", "--quiet", "--sample-format", "float", *options]) == 0
        return read_audio(path)[0], json.loads(read_tags(path)["comment"])

    return edit


def test_transform_is_what_the_pipeline_makes(run, music, checkpoint):
    result, settings = run("transform", str(music), "piano", "--strength", "0.7", "--method", "edit")
    pipe = LongFormMusicAudioToAudioPipeline.from_pretrained(checkpoint)
    generator = torch.Generator().manual_seed(3)
    expected = pipe("piano", music, 0.7, method="edit", num_inference_steps=2, generator=generator).audios[0]
    assert torch.equal(result, expected / max(expected.abs().max().item(), 1))
    assert settings["command"] == "transform" and settings["input"] == "music.wav"
    assert (settings["strength"], settings["method"], settings["seed"]) == (0.7, "edit", 3)
    assert settings["num_inference_steps"] == 2 and settings["duration_in_s"] == 0.2


def test_inpaint_keeps_the_rest(run, music):
    result, settings = run("inpaint", str(music), "--region", "0.05-0.1", "--region", "0:0.15-0:0.16")
    original = read_audio(music)[0]
    is_new = torch.zeros(1600, dtype=torch.bool)
    is_new[400:800] = is_new[1200:1280] = True
    assert result.shape == original.shape
    assert torch.equal(result[:, ~is_new], original[:, ~is_new])
    assert not torch.equal(result[:, is_new], original[:, is_new])
    assert settings["regions"] == [[0.05, 0.1], [0.15, 0.16]]


def test_extend_goes_on_at_both_ends(run, music):
    result, settings = run("extend", str(music), "rock", "--to", "0.9", "--prepend", "0.05", "--repeats", "1")
    assert result.shape == (2, 7200)
    assert torch.equal(result[:, 400:2000], read_audio(music)[0])
    assert settings["command"] == "extend" and settings["extend_to"] == 0.9 and settings["duration_in_s"] == 0.9


def test_sections_from_a_file(run, music, checkpoint, tmp_path):
    (tmp_path / "sections.txt").write_text("0 intro, piano\n\n0:00.1 rock, drums\n")
    _, settings = run("generate", "--sections", str(tmp_path / "sections.txt"), "--duration", "0.2")
    assert settings["sections"] == [[0, "intro, piano"], [0.1, "rock, drums"]]
    assert settings["prompt"] == "" and read_tags(tmp_path / "result.wav")["title"] == "intro, piano / rock, drums"
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    prompt = [(0, "intro, piano"), (0.1, "rock, drums")]
    generator = torch.Generator().manual_seed(3)
    expected = pipe(prompt, 0.2, num_inference_steps=2, generator=generator).audios[0]
    assert torch.equal(read_audio(tmp_path / "result.wav")[0], expected / max(expected.abs().max().item(), 1))
    again = str(tmp_path / "again.wav")
    assert main(["generate", "--from", str(tmp_path / "result.wav"), "-o", again, "--sample-format", "float"]) == 0
    assert torch.equal(read_audio(again)[0], read_audio(tmp_path / "result.wav")[0])
    other, settings = run("generate", "rock", "--from", str(tmp_path / "result.wav"))
    assert "sections" not in settings and not torch.equal(other, read_audio(again)[0])


def test_resampling_is_said_once(music, checkpoint, tmp_path, make_audio, capsys, caplog):
    path = tmp_path / "other.wav"
    soundfile.write(path, make_audio(2400, sampling_rate=12000).numpy().T, 12000)
    options = ["--steps", "1", "--checkpoint", str(checkpoint), "-o"]
    assert main(["transform", str(path), *options, str(tmp_path / "a.wav")]) == 0
    assert caplog.text.count("other.wav' has 12000 Hz and is resampled to the model's 8000 Hz") == 1
    assert "resampled" not in capsys.readouterr().err  # it is said once
    caplog.clear()
    assert main(["transform", str(music), *options, str(tmp_path / "b.wav")]) == 0
    assert main(["transform", str(path), "--quiet", *options, str(tmp_path / "c.wav")]) == 0
    assert not caplog.text and not capsys.readouterr().err.count("Hz")
    assert logging.getLogger("stable_longform").level == logging.NOTSET  # for the next command of this process


EDITS = {
    "transform": ["--strength", "0.7", "--method", "edit", "--source-prompt", "rock", "--duration", "0.15"],
    "inpaint": ["--region", "0.05-0.1", "--region", "0.15-0.16", "--crossfade", "0.005"],
    "extend": ["--to", "0.9", "--prepend", "0.05", "--repeats", "1", "--context", "0.1"],
}


@pytest.mark.parametrize("command", EDITS)
def test_an_edit_can_be_made_again_or_changed_in_one_thing(run, music, tmp_path, monkeypatch, command):
    first, settings = run(command, str(music), "piano", *EDITS[command])
    file, again = tmp_path / "result.wav", tmp_path / "again.wav"
    monkeypatch.setenv("STABLE_LONGFORM_CHECKPOINT", "nowhere")  # the checkpoint of the file counts
    options = ["--from", str(file), "-o", str(again), "--quiet", "--overwrite", "--sample-format", "float"]
    assert main([command, *options]) == 0
    assert torch.equal(read_audio(again)[0], first)
    assert json.loads(read_tags(again)["comment"]) == settings
    assert main([command, *options, "--seed", "4"]) == 0
    assert json.loads(read_tags(again)["comment"]) == settings | {"seed": 4}
    assert not torch.equal(read_audio(again)[0], first)
    assert main([command, str(music), "rock", *options]) == 0
    assert json.loads(read_tags(again)["comment"]) == settings | {"prompt": "rock"}


def test_a_stored_method_or_loop_can_be_left(run, music, tmp_path):
    options = ["--from", str(tmp_path / "result.wav"), "-o", str(tmp_path / "b.wav"), "--quiet", "--overwrite"]
    run("transform", str(music), "piano", "--method", "edit", "--source-prompt", "drums")
    assert main(["transform", *options, "--method", "noise"]) == 0
    changed = json.loads(read_tags(tmp_path / "b.wav")["comment"])
    assert changed["method"] == "noise" and "source_prompt" not in changed
    assert main(["transform", *options, "--method", "noise", "--source-prompt", "drums"]) == 2
    run("extend", str(music), "piano", *EDITS["extend"], "--loop")
    assert main(["extend", *options, "--no-loop"]) == 0
    assert json.loads(read_tags(tmp_path / "b.wav")["comment"])["loop"] is False


def test_made_again_with_other_audio_it_is_as_long_as_that(run, music, tmp_path, make_audio):
    run("transform", str(music), "piano", "--duration", "0.15")
    other = tmp_path / "other.wav"
    soundfile.write(other, make_audio(2400, sampling_rate=RATE).numpy().T, RATE, subtype="FLOAT")
    options = ["-o", str(tmp_path / "again.wav"), "--quiet"]
    assert main(["transform", str(other), "--from", str(tmp_path / "result.wav"), *options]) == 0
    assert read_audio(tmp_path / "again.wav")[0].shape == (2, 2400)


def test_audio_that_is_gone_or_has_changed_is_said(run, music, fails, tmp_path, monkeypatch):
    run("inpaint", str(music), "--region", "0.05-0.1")
    redo = ["inpaint", "--from", str(tmp_path / "result.wav"), "-o", str(tmp_path / "b.wav")]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    content = music.read_bytes()
    music.write_bytes(content[:-1] + b"?")
    assert "music.wav has changed since" in fails(*redo)
    music.rename(tmp_path / "moved.wav")
    assert "was made from music.wav, which is neither beside it nor in this folder: give INPUT" in fails(*redo)
    (tmp_path / "here/music.wav").write_bytes(content)
    assert main([*redo, "--quiet"]) == 0


def test_a_file_is_made_again_by_the_command_that_made_it(run, music, fails, tmp_path):
    run("inpaint", str(music), "--region", "0.05-0.1")
    options = ["--from", str(tmp_path / "result.wav"), "-o", str(tmp_path / "b.wav")]
    assert "result.wav was made by `stable-longform inpaint`, not generate" in fails("generate", *options)
    assert "result.wav was made by `stable-longform inpaint`, not extend" in fails("extend", *options)
    assert "music.wav has no settings in its tags" in fails("inpaint", "--from", str(music), *options[2:])
    assert "Give INPUT, or --from FILE" in fails("transform", *options[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transform", "MUSIC", "--strength", "0"], "--strength must be greater than 0"),
        (["transform", "MUSIC", "--strength", "2"], "'--strength': must be in [0, 1], got '2'"),
        (["transform", "MUSIC", "--strength", "nan"], "must be in [0, 1], got 'nan'"),
        (["transform", "MUSIC", "--method", "paint"], "--method must be one of noise, invert, edit"),
        (["transform", "MUSIC", "--source-prompt", "a"], "--source-prompt is for"),
        (["transform", "MUSIC", "--method", "invert", "--scheduler", "ping-pong"], "--method invert needs"),
        (["transform", "MUSIC", "--method", "edit", "--scheduler", "sde-dpmsolver++"], "++ or ping-pong, got"),
        (["transform", "missing.wav"], "is not a file"),
        (["transform", "TEXT"], "text.wav"),
        (["transform", "MP3"], "text.mp3 cannot be read as audio: Format not recognised."),
        (["transform", "MUSIC", "-o", "MUSIC"], "is the input"),
        (["inpaint", "MUSIC"], "at least one --region"),
        (["inpaint", "MUSIC", "--region", "5"], "--region must be START-STOP"),
        (["inpaint", "MUSIC", "--region", "-0.1-0.15"], "--region must be START-STOP"),
        (["inpaint", "MUSIC", "--region", "a-b"], "neither a number of seconds"),
        (["inpaint", "MUSIC", "--region", "0.1-0.3"], "within the audio"),
        (["inpaint", "MUSIC", "--region", "0.1-0.15", "--region", "0.12-0.2"], "not overlap"),
        (["inpaint", "MUSIC", "--region", "0.1-0.15", "--context", "0"], "must be a number of seconds"),
        (["inpaint", "MUSIC", "--region", "0.1-0.15", "--context", "5000"], "in [0.001, 3600], got '5000'"),
        (["inpaint", "MUSIC", "--region", "0.1-0.15", "--repeats", "0"], "must be in [1, 100], got '0'"),
        (["inpaint", "MUSIC", "--region", "0.1-0.15", "--crossfade", "11"], "must be in [0, 10], got '11'"),
        (
            ["inpaint", "MUSIC", "--region", "0.1-0.15", "--crossfade", "0.03"],
            "--crossfade must be in [0, 0.025] seconds",
        ),
        (["extend", "MUSIC", "--to", "0.3", "--crossfade", "1"], "--crossfade must be in [0, 0.05] seconds"),
        (["extend", "MUSIC"], "Give --to SECONDS"),
        (["extend", "MUSIC", "--to", "0.1"], "--to must be in [0.201, 3600] seconds, got 0.1"),
        (["extend", "MUSIC", "--to", "2:00:00"], "--to must be in"),
        (["extend", "MUSIC", "--to", "0.2"], "--to must be in [0.201, 3600] seconds, got 0.2"),
        (["inpaint", "MUSIC", "--region", "0-0.2"], "Nothing is kept"),
        (["inpaint", "MUSIC", "--region", "0-0.1", "--region", "0.1-0.2"], "Nothing is kept"),
        (["inpaint", "MUSIC", "--region", "0.1-0.1"], "within the audio"),
        (["inpaint", "MUSIC", "--region", "0.05-0.1", "--loop"], "A loop needs new music at one end"),
        (["inpaint", "SILENT", "--region", "0.05-0.1"], "is silent: all its samples are 0"),
        (["extend", "NAN", "--to", "1"], "contains non-finite samples"),
        (["transform", "EMPTY"], "is empty"),
        (["transform", "EIGHT"], "must have 1 or 2 channels, got 8"),
        (["extend", "MUSIC", "--prepend", "-1"], "--prepend"),
        (["extend", "MUSIC", "--to", "1", "--sections", "SECTIONS"], "Sections must start at 0 s and rise, got 1, 0"),
        (["extend", "MUSIC", "--to", "1", "--sections", "LATE"], "must start before the end at 1 s, got 5 s"),
        (["extend", "MUSIC", "--to", "1", "--sections", "TEXT"], "line 1: 'no' is neither"),
    ],
)
def test_bad_input_is_one_line_before_the_model_is_loaded(fails, hollow, music, tmp_path, arguments, message):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "sections.txt").write_text("1 a\n0 b\n")
    (tmp_path / "late.txt").write_text("0 a\n5 b\n")
    (tmp_path / "text.mp3").write_text("no audio")
    files = {"MUSIC": music, "TEXT": tmp_path / "text.wav", "MP3": tmp_path / "text.mp3"}
    files |= {"SECTIONS": tmp_path / "sections.txt", "LATE": tmp_path / "late.txt"}
    bad = {"SILENT": ((1600, 2), 0.0), "NAN": ((9, 2), math.nan), "EMPTY": ((0, 2), 0.0), "EIGHT": ((9, 8), 0.1)}
    for name, (shape, value) in bad.items():
        files[name] = tmp_path / f"{name}.wav"
        soundfile.write(files[name], np.full(shape, value), RATE, subtype="FLOAT")
    arguments = [str(files.get(argument, argument)) for argument in arguments]
    if "-o" not in arguments:
        arguments += ["-o", str(tmp_path / "out.wav")]
    assert message in fails(*arguments, "--checkpoint", hollow)


def test_music_that_is_longer_than_the_window_is_not_transformed(fails, weightless, tmp_path, make_audio):
    soundfile.write(tmp_path / "long.wav", make_audio(8000, sampling_rate=RATE).numpy().T, RATE)
    options = ["-o", str(tmp_path / "out.wav"), "--checkpoint", weightless]
    message = fails("transform", str(tmp_path / "long.wav"), *options)
    assert "The result would last 1 s: give a --duration in (0, 0.512] seconds" in message
