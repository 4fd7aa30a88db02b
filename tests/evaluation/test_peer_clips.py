"""The clips of another system, from a wheel of the same form."""

import io
import zipfile

import numpy as np
import pytest
import soundfile

from stable_longform.evaluation import peer_clips
from stable_longform.evaluation.audio_files import list_audio
from stable_longform.evaluation.prompt_lists import PromptRow, read_prompt_list
from stable_longform.metrics.embedders.features import CACHE_VARIABLE
from stable_longform.metrics.embedders.wheels import Wheel
from stable_longform.utils.files import file_sha256

LICENCE = """All music in this directory was generated locally with ACE-Step 1.5.

calm/
  calm_acoustic_1.opus                 68 bpm  C major   seed 101  [acoustic]

happy/
  happy_electronic_s411.opus          123 bpm  Bb minor  seed 411  [electronic]
"""


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with two clips, and an empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    clip = io.BytesIO()
    soundfile.write(clip, np.zeros((4800, 2)), 48000, format="OGG", subtype="OPUS")
    path = tmp_path / "clips.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("calm/calm_acoustic_1", "happy/happy_electronic_s411"):
            archive.writestr(f"immich_memories_music/tracks/{name}.opus", clip.getvalue())
        archive.writestr(peer_clips.LICENCE, LICENCE)
    monkeypatch.setattr(peer_clips, "WHEEL", Wheel("x==1", path.name, file_sha256(path)))
    return path


def test_clips_licence_and_prompts(wheel):
    folder = peer_clips.prepare_peer_clips(wheel)
    assert folder == peer_clips.peer_folder()
    assert list(list_audio(folder)) == ["calm_acoustic_1", "happy_electronic_s411"]
    assert soundfile.info(folder / "calm_acoustic_1.opus").duration == pytest.approx(0.1)
    assert (folder / "LICENSE-MUSIC.txt").read_text(encoding="utf-8") == LICENCE
    assert read_prompt_list(folder / "prompts.jsonl") == [
        PromptRow("calm_acoustic_1", "Moods: Calm|BPM: 68|Key: C major"),
        PromptRow("happy_electronic_s411", "Moods: Happy|BPM: 123|Key: Bb minor"),
    ]
    wheel.unlink()
    assert peer_clips.prepare_peer_clips(wheel) == folder  # what is there is kept


def test_another_wheel_is_refused_and_leaves_nothing(wheel):
    wheel.write_bytes(b"")
    with pytest.raises(ValueError, match="is not the published"):
        peer_clips.prepare_peer_clips(wheel)
    assert not peer_clips.peer_folder().exists()
