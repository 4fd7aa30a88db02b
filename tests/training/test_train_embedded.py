"""The embedded checkpoint from nothing, by the real command: stopped twice, and what is refused."""

import json
import time

import pytest
from launch import RunningScript, run_script

from stable_longform.data.composition.rendering import SOUNDFONTS
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "4.9"])
def test_too_few_minutes_are_refused(tmp_path, minutes):
    result = run_script("train_embedded.py", "--minutes", minutes, "--output_dir", tmp_path / "out")
    assert result.returncode == 2 and f"must be a number in [5, 10^6], got {minutes!r}" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not any(path.is_file() for path in SOUNDFONTS.values()), reason="no soundfont is installed")
def test_two_stops_and_a_checkpoint_that_generates(tmp_path):
    command = ("train_embedded.py", "--minutes", 5, "--output_dir", tmp_path)
    for stage in ("linear", "dit_12s"):
        script = RunningScript(*command)
        while not (tmp_path / stage / "metrics.jsonl").is_file():
            assert script.process.is_alive()
            time.sleep(0.5)
        script.kill()
        before = json.loads((tmp_path / "progress.json").read_text())
        assert not before[stage]["is_done"]
    assert run_script(*command, timeout_in_s=1200).returncode == 0
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress["linear"]["max_steps"] == before["linear"]["max_steps"]
    pipe = LongFormMusicPipeline.from_pretrained(tmp_path / "checkpoint")
    assert pipe("Genre: Jazz", duration=2.0, num_inference_steps=2).audios[0].shape == (2, 88200)
