"""Windows of latents: timing and mask follow the crop, in both layouts; what is lost is replaced; shards describe
themselves."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stable_longform.data import latents
from stable_longform.data.bad_tracks import TooManyBadTracks
from stable_longform.data.latents import LatentWindows, collate_windows, read_latent_index, read_shards, write_shard

FRAMES_PER_S = 44100 / 2048
LENGTHS = (900, 40, 300)  # frames of music
TAIL = 8
WINDOW = 64


def posterior(number: int) -> dict[str, torch.Tensor]:
    """Means that tell track and frame, and no deviation."""
    frames = torch.arange(LENGTHS[number] + TAIL)
    mean = torch.stack([frames, torch.full_like(frames, number), -frames]).half()
    return {"mean": mean, "std": torch.zeros_like(mean)}


def row(number: int) -> dict:
    duration_in_s = LENGTHS[number] / FRAMES_PER_S
    described = {"duration_in_s": duration_in_s, "split": "train", "weight": 1.0, "metadata": {"bpm": number + 1}}
    return {"key": f"key{number}", "latent_length": LENGTHS[number]} | described


def write(folder: Path, layout: str) -> Path:
    """A folder of three tracks, in shards of two or a file each."""
    folder.mkdir()
    rows = []
    if layout == "shards":
        for numbers in ((0, 1), (2,)):
            rows += write_shard(folder, [row(n) for n in numbers], [posterior(n) for n in numbers])
    else:
        for number in range(3):
            save_file(posterior(number), folder / f"{number}.safetensors")
            rows.append({key: value for key, value in row(number).items() if key != "key"})
            rows[-1]["file"] = f"{number}.safetensors"
    save_file({"mean": torch.full((3, 1), -1.0).half(), "std": torch.zeros(3, 1).half()},
              folder / "silence.safetensors")  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "latents.json").write_text(json.dumps({"latent_rate": FRAMES_PER_S}))
    return folder


@pytest.mark.parametrize("layout", ["shards", "files"])
def test_timing_and_mask_follow_the_crop(tmp_path, layout):
    windows = LatentWindows(write(tmp_path / "latents", layout), "train", WINDOW, seed=1)
    starts = set()
    for index in range(60):
        item = windows[index]
        number, start = int(item["latents"][1, 0]), int(item["latents"][0, 0])
        length = LENGTHS[number]
        assert item["prompt"].strip("bpmBPM: ") == str(number + 1)
        assert item["seconds_start"] == math.floor(start / FRAMES_PER_S)
        assert item["seconds_total"] == math.ceil(length / FRAMES_PER_S)
        frames = torch.arange(start, start + WINDOW)
        assert torch.equal(item["latent_mask"], frames < length)
        assert torch.equal(item["latents"][0], torch.where(frames < length + TAIL, frames, -1).float())
        starts.add(item["seconds_start"])
    assert len(starts) > 10 and max(starts) > 20
    batch = collate_windows([windows[0], windows[1]])
    assert batch["latent_mask"].shape == (2, WINDOW) and batch["latents"].shape == (2, 3, WINDOW)


def test_an_excerpt_stands_for_the_whole(tmp_path):
    folder = write(tmp_path / "latents", "shards")
    windows = LatentWindows(folder, "train", WINDOW, seed=1, excerpt_probability=1.0)
    lengths, short = [], []
    for index in range(300):
        item = windows[index]
        number, start, length = int(item["latents"][1, 0]), int(item["latents"][0, 0]), int(item["latent_mask"].sum())
        assert start + length <= LENGTHS[number]
        assert item["seconds_start"] == 0 and item["seconds_total"] == math.ceil(length / FRAMES_PER_S)
        frames = torch.arange(WINDOW)
        assert torch.equal(item["latent_mask"], frames < length)
        assert torch.equal(item["latents"][0], torch.where(frames < length, start + frames, -1).float())
        lengths.append(length)
        short.append(length <= min(LENGTHS[number], WINDOW) / 5)
    assert min(lengths) == 1 and max(lengths) > WINDOW * 3 / 4 and 0.4 < sum(short) / 300 < 0.6
    assert 0.1 < sum(length in (*LENGTHS, WINDOW) for length in lengths) / 300 < 0.3
    some = LatentWindows(folder, "train", WINDOW, excerpt_probability=0.3)
    assert 20 < sum(some[index]["seconds_total"] in (1, 3) for index in range(200)) < 60  # no whole track is so short
    with pytest.raises(ValueError, match="excerpt_probability must be in \\[0, 1\\], got 1.5"):
        LatentWindows(folder, "train", WINDOW, excerpt_probability=1.5)


def test_both_layouts_give_the_same_items(tmp_path):
    first, second = (LatentWindows(write(tmp_path / name, name), "train", WINDOW) for name in ("shards", "files"))
    for index in range(20):
        items = first[index], second[index]
        assert torch.equal(items[0]["latents"], items[1]["latents"])
        assert items[0]["prompt"] == items[1]["prompt"]


def test_timing_has_a_largest_value(tmp_path):
    windows = LatentWindows(write(tmp_path / "latents", "shards"), "train", WINDOW, max_seconds=2)
    items = [windows[index] for index in range(20)]
    assert max(item["seconds_start"] for item in items) == max(item["seconds_total"] for item in items) == 2


def test_files_stay_open_up_to_a_limit_and_are_not_sent_to_workers(tmp_path, monkeypatch):
    folder = write(tmp_path / "latents", "files")
    windows = LatentWindows(folder, "train", WINDOW)
    expected = [windows[index]["latents"] for index in range(20)]
    assert len(windows._files) == 3
    assert torch.equal(pickle.loads(pickle.dumps(windows))[0]["latents"], expected[0])
    monkeypatch.setattr(latents, "MAX_OPEN_FILES", 2)
    windows = LatentWindows(folder, "train", WINDOW)
    for index in range(20):
        assert torch.equal(windows[index]["latents"], expected[index]) and len(windows._files) <= 2


def test_a_lost_shard_is_counted_and_replaced(tmp_path):
    folder = write(tmp_path / "latents", "shards")
    expected = [LatentWindows(folder, "train", WINDOW)[index] for index in range(20)]
    (folder / "shard-key2.safetensors").unlink()
    windows = LatentWindows(folder, "train", WINDOW, max_bad_fraction=0.4)
    for index, old in enumerate(expected):
        item = windows[index]
        assert int(item["latents"][1, 0]) != 2
        if int(old["latents"][1, 0]) != 2:
            assert torch.equal(item["latents"], old["latents"])
    assert list(windows.bad_tracks.kinds.values()) == ["broken"]
    strict = LatentWindows(folder, "train", WINDOW, max_bad_fraction=0.3)
    with pytest.raises(TooManyBadTracks, match="1 of 3 tracks cannot be used .*shard-key2.safetensors/key2"):
        [strict[index] for index in range(20)]


def test_shards_describe_themselves(tmp_path):
    folder = write(tmp_path / "latents", "shards")
    found = read_shards(folder)
    assert list(found) == ["key0", "key1", "key2"]
    assert [found[key]["latent_length"] for key in found] == list(LENGTHS)
    tracks = read_latent_index(folder)
    assert [track.file.name for track in tracks] == ["shard-key0.safetensors"] * 2 + ["shard-key2.safetensors"]
    assert [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()] == list(found.values())
    damaged = folder / "shard-key0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert list(read_shards(folder)) == ["key2"]
    assert read_shards(tmp_path) == {}


def test_draws_are_by_weight(tmp_path):
    folder = write(tmp_path / "latents", "files")
    rows = [json.loads(line) | {"weight": weight} for line, weight in
            zip((folder / "index.jsonl").read_text().splitlines(), (1, 2, 5), strict=True)]  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    windows = LatentWindows(folder, "train", 8)
    counts = np.bincount([int(windows[index]["latents"][1, 0]) for index in range(400)])
    assert np.abs(counts / 400 - np.array([1, 2, 5]) / 8).max() < 0.08
