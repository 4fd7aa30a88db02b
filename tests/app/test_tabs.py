"""The controls of the tabs, as people fill them in: what the pipelines get, and what is refused."""

import pytest
import torch

from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.pipelines.pipeline_longform_music_audio_to_audio import LongFormMusicAudioToAudioPipeline
from stable_longform.pipelines.pipeline_longform_music_inpaint import LongFormMusicInpaintPipeline
from stable_longform.utils.accepted_values import MAX_SEED
from stable_longform.utils.audio import write_audio

pytest.importorskip("gradio")
from stable_longform.app import page as page_module
from stable_longform.app import uploads
from stable_longform.app.tabs import read_request

SHARED = {"negative_prompt": "", "num_inference_steps": 2, "guidance_scale": 2.0, "seed": "1", "format": "wav"}
CONTROLS = {
    "generate": {"prompt": "piano", "duration_in_s": "1"},
    "sections": {"sections": "0 a\n0:00.5 b", "duration_in_s": "1"},
    "transform": {"prompt": "rock", "strength": 0.5, "method": "noise", "source_prompt": ""},
    "inpaint": {"prompt": "rock", "regions": "0.2-0.4, 0:00.5-0:00.75", "loop": False},
    "extend": {"prompt": "rock", "extend_to": "2", "prepend_in_s": "0.25", "loop": True},
}


@pytest.fixture
def read(pipe, tmp_path):
    """Reads the controls of a tab, with a second of noise as the upload; some of them changed."""
    path = tmp_path / "noise.wav"
    write_audio(path, torch.rand(1, 12000, generator=torch.Generator().manual_seed(0)) - 0.5, 12000)

    def read(command, **changes):
        upload = {} if command in ("generate", "sections") else {"audio": str(path)}
        return read_request(pipe, "random", command, CONTROLS[command] | SHARED | upload | changes)

    return read


def test_the_pipelines_get_what_is_typed(read):
    wanted = read("inpaint")
    arguments = wanted.make.keywords
    assert arguments["regions"] == wanted.regions == [(0.2, 0.4), (0.5, 0.75)]
    assert (wanted.duration_in_s, wanted.made["seed"], wanted.made["input"]) == (1.0, 1, "noise.wav")
    wanted = read("extend")
    assert wanted.regions == [(0, 0.25), (1.25, 2.0)] and wanted.duration_in_s == 2.0
    assert {name: wanted.make.keywords[name] for name in ("extend_to", "prepend_in_s", "loop")} == {
        "extend_to": 2.0, "prepend_in_s": 0.25, "loop": True,
    }  # fmt: skip
    assert read("sections").make.keywords["prompt"] == [[0, "a"], [0.5, "b"]]


@pytest.mark.parametrize(
    ("command", "changes", "pipeline_class", "arguments"),
    [
        ("generate", {}, LongFormMusicPipeline, {"prompt": "piano", "duration": 1.0}),
        ("sections", {}, LongFormMusicPipeline, {"prompt": [(0.0, "a"), (0.5, "b")], "duration": 1.0}),
        ("transform", {}, LongFormMusicAudioToAudioPipeline, {"strength": 0.5}),
        (
            "transform",
            {"method": "invert", "source_prompt": "jazz"},
            LongFormMusicAudioToAudioPipeline,
            {"strength": 0.5, "method": "invert", "source_prompt": "jazz"},
        ),
        (
            "inpaint",
            {"regions": "0-0.25", "loop": True},
            LongFormMusicInpaintPipeline,
            {"regions": [(0.0, 0.25)], "loop": True},
        ),
        (
            "extend",
            {},
            LongFormMusicInpaintPipeline,
            {"extend_to": 2.0, "prepend_in_s": 0.25, "loop": True},
        ),
    ],
)
def test_the_music_is_the_pipelines_own(read, pipe, tmp_path, command, changes, pipeline_class, arguments):
    request = read(command, seed="5", negative_prompt="drums", **changes)
    music = torch.cat(list(request.make(lambda cls: cls.from_pipe(pipe))), dim=-1)
    if "audio" in request.make.keywords:
        arguments = {"prompt": "rock", "audio": tmp_path / "noise.wav"} | arguments
    expected = pipeline_class.from_pipe(pipe)(
        **arguments,
        negative_prompt="drums",
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(5),
    ).audios[0]
    assert music.shape == expected.shape == (2, round(request.duration_in_s * pipe.sampling_rate))
    torch.testing.assert_close(music, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_the_tags_say_what_was_asked_for(read):
    request = read("sections", negative_prompt=" drums ", seed=str(MAX_SEED))
    assert request.title == "a / b" and request.made["sections"] == [[0, "a"], [0.5, "b"]]
    assert (request.made["negative_prompt"], request.made["seed"]) == ("drums", MAX_SEED)
    request = read("transform", method="invert", source_prompt="jazz")
    assert request.title == request.made["prompt"] == "rock" and request.made["source_prompt"] == "jazz"
    assert (request.made["strength"], request.made["method"], request.made["duration_in_s"]) == (0.5, "invert", 1.0)


def test_music_to_transform_must_fit_into_the_window(read, tmp_path):
    write_audio(tmp_path / "long.wav", torch.full((1, 30000), 0.1), 12000)
    with pytest.raises(ValueError, match="Music to transform must be at most 2.048 s long, got 2.5 s"):
        read("transform", audio=str(tmp_path / "long.wav"))


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("generate", {"duration_in_s": "2.5"}, "Duration must be at most 2.048 seconds, got 2.5"),
        ("generate", {"prompt": "a\0b"}, "Texts must not have NUL characters"),
        ("generate", {"num_inference_steps": ""}, "Steps must be a number, got ''"),  # an empty field
        ("generate", {"guidance_scale": ""}, "Guidance must be a number, got ''"),
        ("generate", {"seed": "1.5"}, "Seed must be a whole number"),
        ("generate", {"seed": str(MAX_SEED + 1)}, "Seed must be a whole number"),
        ("sections", {"sections": "0 a\nb"}, "Sections, line 2: 'b' is neither"),
        ("transform", {"strength": ""}, "Strength must be a number, got ''"),
        ("transform", {"audio": None}, "Upload an audio file first"),
        ("inpaint", {"regions": ""}, "Mark a region on the waveform"),
        ("inpaint", {"regions": "0.2"}, "Regions: must be START-STOP, as 0:10-0:15, got '0.2'"),
        ("inpaint", {"regions": "0.4-0.2"}, "A region must be within the audio"),
        ("inpaint", {"regions": "0-1"}, "Nothing is kept"),
        ("inpaint", {"loop": True}, "A loop needs new music at one end"),
        ("extend", {"extend_to": "1.2"}, r"Total duration must be in \[1.251, 900\] seconds, got 1.2"),
        ("extend", {"extend_to": "", "prepend_in_s": "nan"}, "Seconds before: must be a number of seconds in"),
        ("extend", {"extend_to": "", "prepend_in_s": "900"}, "The result must last at most 900 s, got 901 s"),
        ("extend", {"extend_to": "", "prepend_in_s": ""}, "Enter a total duration, seconds before, or both"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_before_any_work(read, command, changes, message):
    with pytest.raises(ValueError, match=message):
        read(command, **changes)


def test_an_upload_is_decoded_once(read, tmp_path, monkeypatch):
    decoded, checked_blocks = [], uploads.checked_blocks
    monkeypatch.setattr(uploads, "checked_blocks", lambda path: decoded.append(path) or checked_blocks(path))
    path = str(tmp_path / "noise.wav")
    note, music = page_module._show_upload(path, "0.25-0.5")
    assert note == "<p>0:01, 12000 Hz, mono.</p>"
    assert music["duration"] == 1.0 and music["regions"] == [[0.25, 0.5]]
    assert 500 < len(music["peaks"]) <= 600 and max(music["peaks"]) == 1.0
    read("inpaint"), read("extend"), page_module._look_at(path)
    assert decoded == [path]
