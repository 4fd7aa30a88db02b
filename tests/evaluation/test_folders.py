"""A folder against a folder, with the embedder that needs no weights: the report, bad files, resuming."""

import json

import numpy as np
import pytest
import soundfile

from stable_longform.evaluation import features
from stable_longform.evaluation.audio_files import ReadingSettings
from stable_longform.evaluation.folders import score_folder
from stable_longform.evaluation.prompt_lists import PromptRow
from stable_longform.metrics.embedders.mel44 import Mel44Embedder

RATE, SECONDS = 44100, 6.1


@pytest.fixture
def folders(tmp_path, make_audio):
    """Four generated and four real files of 6.1 s."""
    for offset, folder in enumerate(("generated", "real")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for number in range(4):
            path = tmp_path / folder / f"{'deep/' if number == 3 else ''}{number}.wav"
            soundfile.write(path, make_audio(round(RATE * SECONDS), 2, RATE, 10 * offset + number).T.numpy(), RATE)
    return tmp_path / "generated", tmp_path / "real", tmp_path / "report"


def score(folders, **kwargs):
    """The report of a comparison."""
    return score_folder(*folders, [Mel44Embedder()], **kwargs)


def test_report(folders):
    report = score(folders)
    only, kad = report["scores"]
    assert only["metric"] == "fd_mel44" and only["num_windows"] == (8, 8) and only["value"] > 0
    assert kad["metric"] == "kad_mel44" and kad["interval"][0] < kad["value"] < kad["interval"][1]
    assert json.loads((folders[2] / "scores.json").read_text())["scores"][0]["value"] == only["value"]
    table = (folders[2] / "table.md").read_text()
    assert "| fd_mel44 |" in table and "0 generated files left out." in table
    assert (folders[2] / "figure.png").read_bytes().startswith(b"\x89PNG")
    protocol = report["protocol"]
    assert protocol["embedders"]["mel44"]["weights_sha256"] == "none"
    assert protocol["reading"]["peak_in_db"] == -1 and protocol["environment"]["versions"]["torch"]
    assert score((folders[1], folders[1], folders[2] / "same"))["scores"][0]["value"] == pytest.approx(0, abs=1e-9)


def test_bad_files_are_named_counted_and_in_no_mean(folders, make_audio):
    expected = score(folders)["scores"]
    generated = folders[0]
    (generated / "damaged.wav").write_bytes(b"no audio")
    soundfile.write(generated / "empty.wav", np.zeros((0, 2)), RATE)
    soundfile.write(generated / "nan.wav", np.full((8 * RATE, 2), np.nan), RATE, subtype="FLOAT")
    soundfile.write(generated / "short.wav", np.ones((RATE, 2)) * 0.1, RATE)
    soundfile.write(generated / "long.wav", np.zeros((9 * RATE, 2)), RATE)
    settings = ReadingSettings(max_duration_in_s=8.5)
    report = score(folders, settings=settings)
    assert report["scores"] == expected
    skipped = report["generated"]["skipped"]
    assert report["generated"]["num_files"] == 4 and report["generated"]["num_skipped"] == 5
    reasons = {
        "damaged": "unreadable",
        "empty": "empty",
        "nan": "not finite",
        "short": "mel44: waveform must be",
        "long": "too long: 9 s",
    }
    for name, reason in reasons.items():
        assert reason in skipped[name]
        assert f"- {name}: " in (folders[2] / "table.md").read_text()
    soundfile.write(generated / "mono.wav", make_audio(8000 * 7, 1, 8000)[0].numpy(), 8000)
    report = score(folders, settings=settings)
    assert report["generated"]["notes"] == {"mono": ["mono", "sampling rate of 8000 Hz"]}
    assert report["scores"][0]["num_files"] == 5 and report["scores"] != expected


def test_files_of_no_audio_and_without_a_prompt_are_counted(folders):
    (folders[0] / "protocol.txt").write_text("")
    (folders[0] / "deep" / "cover.PNG").write_bytes(b"")
    (folders[0] / "song.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + b"\0" * 5000)
    report = score(folders)
    assert report["generated"]["other_files"] == {".png": 1, ".txt": 1}
    assert "unreadable" in report["generated"]["skipped"]["song"]
    assert "Not treated as audio: 1 × .png, 1 × .txt." in (folders[2] / "table.md").read_text()
    report = score(folders, rows=[PromptRow("0", "piano"), PromptRow("deep/3", "harp")])
    assert report["generated"]["not_asked_for"] == ["1", "2", "song"]
    assert "Without a prompt: 1, 2, song." in (folders[2] / "table.md").read_text()


def test_tag_text_needs_prompts_and_tags(folders):
    for rows in (None, [PromptRow("0", "piano")]):  # mel44 has no tags
        with pytest.raises(ValueError, match="tag-text score needs prompts and one of the embedders musicnn_msd"):
            score(folders, rows=rows, text_embedder=object())
    assert not folders[2].exists()  # nothing has been done


def test_nothing_usable_is_an_error(folders):
    for path in folders[0].rglob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="generated has no usable file: .*unreadable"):
        score(folders)


def test_a_run_that_was_cut_off_goes_on(folders, monkeypatch):
    whole = score(folders, cache=folders[2] / "other")
    calls = []
    embed = features.embed_audio

    def count(audio, *arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(audio)
        return embed(audio, *arguments)

    monkeypatch.setattr(features, "embed_audio", count)
    with pytest.raises(KeyboardInterrupt):
        score(folders)
    calls.clear()
    assert score(folders) == whole
    assert len(calls) == 3
    calls.clear()
    assert score(folders) == whole and not calls  # everything is there


def test_other_settings_and_other_content_meet_no_old_features(folders, make_audio):
    before = score(folders)["scores"]
    trimmed = score(folders, settings=ReadingSettings(trim_in_s=3.0))["scores"]
    assert trimmed[0]["num_windows"] == (4, 4)
    assert score(folders)["scores"] == before
    soundfile.write(folders[0] / "0.wav", make_audio(round(RATE * SECONDS), 2, RATE, 99).T.numpy(), RATE)
    assert score(folders)["scores"] != before


def test_prompts_choose_files_and_references(folders):
    rows = [
        PromptRow("0", "piano", "3"),
        PromptRow("1", "drums", "2"),
        PromptRow("9", "harp", "2"),
        PromptRow("2", "x", "7"),
    ]
    report = score(folders, rows=rows)
    assert report["generated"]["num_files"] == 3 and report["generated"]["skipped"] == {"9": "missing"}
    assert report["reference"]["num_files"] == 2  # "deep/3" and "2", each once
    assert report["reference"]["unmatched_prompts"] == ["2"]
    assert report["scores"][0]["num_windows"] == (6, 4)
