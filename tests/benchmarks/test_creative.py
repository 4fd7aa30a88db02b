"""The benchmarks of creative work at tiny size: what is kept, what is the same, and whose prompts are compared."""

import json

import numpy as np
import pytest
import torch
from level_tagger import LevelTagger
from tiny_pipeline import seed, tiny_pipeline

from stable_longform import LongFormMusicPipeline
from stable_longform.evaluation import control
from stable_longform.evaluation.control import Heard
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.embedders.minilm import MinilmEmbedder
from stable_longform.utils.audio import read_audio, write_audio

RATE = 8000
PROMPTS = ("BPM: 120|Genre: House|Instruments: Drums", "BPM: 90|Genre: Jazz|Instruments: Piano")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model with a window of 15.4 s."""
    folder = tmp_path_factory.mktemp("checkpoint")
    pipe = tiny_pipeline(sampling_rate=RATE, sample_size=240, downsampling_ratios=(2, 2, 4, 4, 8))
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """24 pieces for training and three for the test, by turns loud house and quiet jazz."""
    folder, lines = tmp_path_factory.mktemp("corpus"), []
    for number in range(27):
        is_test, is_house = number >= 24, number % 2 == 0
        seconds = 9 if is_test else 3
        generator = torch.Generator().manual_seed(number)
        noise = torch.rand(1, seconds * RATE, generator=generator) * (1.6 if is_house else 0.2)
        write_audio(
            folder / f"{number}.wav",
            (noise - noise.mean()).expand(2, -1),
            RATE,
        )
        row = {"path": f"{number}.wav", "duration_in_s": seconds, "split": "test" if is_test else "train"}
        row |= {"genre": "House" if is_house else "Jazz", "instruments": ["Drums" if is_house else "Piano"]}
        lines.append(json.dumps(row | {"bpm": 120 if is_house else 90}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def embedders(monkeypatch):
    """Those that need no weights, in place of those that do."""
    found = {"musicnn_msd": LevelTagger(), "mel44": Mel44Embedder()}
    for name in ("creative_modes", "section_control"):
        monkeypatch.setattr(f"{name}.load_embedder", found.__getitem__)
    monkeypatch.setattr(MinilmEmbedder, "from_cache", LevelTagger)


def options(manifest, checkpoint, output, *others):
    """The arguments of both benchmarks."""
    files = ("--manifest", str(manifest), "--checkpoint", checkpoint, "--output", str(output), "--num_files", "3")
    return (*files, "--num_inference_steps", "2", "--window_in_s", "13", *others)


def test_every_mode_keeps_what_it_says_and_nothing_is_made_twice(run, manifest, checkpoint, tmp_path, monkeypatch):
    asked, shares = [], control.WordListeners.shares

    def record(self, features, wanted):
        asked.append([prompt.tempo for prompt in wanted.values()])
        return shares(self, features, wanted)

    monkeypatch.setattr(control.WordListeners, "shares", record)
    arguments = options(manifest, checkpoint, tmp_path, "--duration", "9")
    header, _, *rows = run("creative_modes", *arguments)
    table = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    new = [name for name in table if name.startswith(("inpaint", "extend"))]
    assert len(table) == 12 and len(new) == 4
    for name in new:
        assert table[name]["kept error"] == "0" and float(table[name]["click ratio"]) > 0
    distances = {name: float(row["distance"]) for name, row in table.items() if row["distance"] != "–"}
    assert distances.pop("transform, `edit`, equal prompts") == 0
    assert distances.pop("transform, `noise`, strength 0.001") < 0.01 < min(distances.values())
    assert all(float(row["time"]) > 0 for name, row in table.items() if not name.endswith(("recordings", "ions")))
    assert float(table["the recordings"]["FD mel44"]) < float(table["text to music"]["FD mel44"])
    assert asked == 2 * [[120, 90, 120]] + 10 * [[90, 120, 120]]  # new music has the prompt of the next piece
    part = read_audio(tmp_path / "parts" / "the-recordings" / "0.wav")[0]
    assert torch.equal(part, read_audio(manifest.parent / "24.wav")[0][:, 3 * RATE : 6 * RATE])

    monkeypatch.setattr(LongFormMusicPipeline, "__call__", None)
    assert run("creative_modes", *arguments) == [header, ["---"] * 8, *rows]
    with pytest.raises(ValueError, match="holds results of other settings"):
        run("creative_modes", *arguments, "--seed", "1")


def test_sections_are_cut_from_one_piece_and_compared_with_their_own_prompts(
    run, manifest, checkpoint, tmp_path, monkeypatch
):
    def listen_to_file(path, end_in_s, excerpt_in_s):  # the estimators have tests of their own
        return Heard(120.0, None, 0.5, 0.5, 5.0, None)

    monkeypatch.setattr(control, "_listen_to_file", listen_to_file)
    arguments = options(manifest, checkpoint, tmp_path, "--section_in_s", "5")
    header, _, *rows = run("section_control", *arguments)
    tempo = dict(zip(header, rows[0], strict=True))
    assert tempo["measured as requested"] == "tempo within 4 %"
    assert tempo["first section"] == tempo["second section"] == "67 ± 33 % of 3"  # two of three ask for 120 BPM
    assert tempo["truth (ceiling)"] == "50 ± 10 % of 24"
    for section, tempos in (("1", [120, 90, 120]), ("2", [90, 120, 120])):  # house, jazz, house, and the next
        report = json.loads((tmp_path / f"section-{section}-report" / "control.json").read_text(encoding="utf-8"))
        asked = [item["asked"]["tempo"] for item in report["generated"]["items"].values()]
        assert asked == tempos
    pipe = LongFormMusicPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    prompt = [(0, PROMPTS[0]), (5, PROMPTS[1])]
    expected = pipe(prompt, 10.0, window_in_s=13.0, num_inference_steps=2, generator=seed(0)).audios[0]
    parts = [read_audio(tmp_path / f"section-{section}" / "0.wav")[0] for section in (1, 2)]
    assert np.array_equal(torch.cat(parts, dim=1), expected)
