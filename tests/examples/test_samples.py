"""The samples of the documentation: the page is the script's, and the script makes what the page shows."""

import runpy
import sys
from pathlib import Path

import pytest
from tiny_pipeline import tiny_pipeline

from stable_longform.utils.audio import read_info

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "examples" / "samples.py"))
FOLDER = ROOT / "docs" / "samples"


def test_the_page_is_what_the_script_writes():
    page = (ROOT / "docs" / "samples.md").read_text(encoding="utf-8")
    assert page == SCRIPT["make_page"](SCRIPT["DURATION_IN_S"])
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{name}.{extension}" for name in SCRIPT["CLIPS"] for extension in ("opus", "webp")
    }


@pytest.mark.parametrize("name", SCRIPT["CLIPS"])
def test_a_clip_has_its_length_and_is_small(name):
    path = FOLDER / f"{name}.opus"
    assert read_info(path).duration_in_s == pytest.approx(SCRIPT["DURATION_IN_S"], abs=0.01)
    assert path.stat().st_size < 150_000


def test_the_script_makes_clips_pictures_and_page(tmp_path, monkeypatch):
    tiny_pipeline().save_pretrained(tmp_path / "checkpoint")
    options = ["--checkpoint", tmp_path / "checkpoint", "--output_dir", tmp_path / "samples", "--duration", 0.2]
    monkeypatch.setattr(sys, "argv", ["samples.py", *map(str, [*options, "--num_inference_steps", 1])])
    SCRIPT["main"]()
    for name in SCRIPT["CLIPS"]:
        assert read_info(tmp_path / "samples" / f"{name}.opus").duration_in_s == pytest.approx(0.2, abs=0.01)
        assert (tmp_path / "samples" / f"{name}.webp").stat().st_size > 1000
    assert "--duration 0.2 --seed 1" in (tmp_path / "samples.md").read_text(encoding="utf-8")
