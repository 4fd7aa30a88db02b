"""The real script on a tiny package: md5, double files, two-file songs, archives, resuming, bad and missing files."""

import hashlib
import json
import runpy
import shutil
import subprocess
import zipfile
from pathlib import Path

import launch
import pytest
import soundfile
import torch

from stable_longform.data.manifest import read_manifest
from stable_longform.data.prompts import available_fields
from stable_longform.data.tracks import SPLITS
from stable_longform.utils.audio import read_audio, write_audio

SCRIPT = launch.ROOT / "training" / "prepare_music.py"
TABLE = launch.ROOT / "training" / "corpus" / "free_game_music.jsonl"
RATE = 44100
MUSIC = "usr/share/tiny/music"

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None or shutil.which("dpkg") is None, reason="needs dpkg to build a package"
)


def run_script(*arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess:
    return launch.run_script("prepare_music.py", *arguments, environment={"PATH": path} if path else None)


def noise(seed: int, num_samples: int = RATE) -> torch.Tensor:
    return 0.9 * (2 * torch.rand(2, num_samples, generator=torch.Generator().manual_seed(seed)) - 1)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_package(folder: Path, build_dir: Path, num_plain: int = 5) -> list[dict]:
    """Builds a .deb in `folder`: `num_plain` tracks, a double of the first, a two-file song and a .pk3 archive."""
    name = "tiny-music"
    root = build_dir / name
    music, control = root / MUSIC, root / "DEBIAN"
    (music / "song").mkdir(parents=True)
    control.mkdir()
    (control / "control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: tiny\n"
    )
    paths = [f"{MUSIC}/{index}.{'wav' if index % 2 else 'ogg'}" for index in range(num_plain)]
    for index, path in enumerate(paths):
        write_audio(root / path, noise(index), RATE)
    shutil.copy(root / paths[0], music / "double.ogg")
    write_audio(music / "song/song.wav", noise(10), RATE)
    write_audio(music / "song/guitar.wav", noise(11, RATE // 2), RATE)
    write_audio(build_dir / "packed.wav", noise(12), RATE)
    with zipfile.ZipFile(music / "tracks.pk3", "w") as archive:
        archive.write(build_dir / "packed.wav", "sound/packed.wav")
    common = {"package": name, "game": "Tiny | Game", "duration_in_s": 1.0, "licence": "CC0"}
    splits = ["train", "valid", *["train"] * (num_plain - 1)]
    rows = [
        common | {"path": path, "md5": md5(root / path), "split": split, "genre": ["Noise"]}
        for path, split in zip([*paths, f"{MUSIC}/double.ogg"], splits, strict=True)
    ]
    song = {"path": f"{MUSIC}/song/song.wav", "mix_with": f"{MUSIC}/song/guitar.wav", "split": "test", "weight": 0.5}
    song |= {"md5": md5(root / song["path"]), "mix_with_md5": md5(root / song["mix_with"])}
    song |= {"title": "A song", "artist": "Ann", "composer": "Bob", "album": "Songs", "bpm": 90}
    packed = {"path": f"{MUSIC}/unpacked/sound/packed.wav", "md5": md5(build_dir / "packed.wav"), "split": "extra"}
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(root), str(folder / f"{name}_1.0_all.deb")],
        check=True,
        capture_output=True,
    )
    return [*rows, common | song, common | packed]


def write_table(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below a folder."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tiny(tmp_path):
    """The rows of a tiny package that lies, already downloaded, in `out/debs`, and the script's arguments."""
    rows = make_package(tmp_path / "out" / "debs", tmp_path / "build")
    table = write_table(tmp_path / "table.jsonl", rows)
    return rows, ["--output_dir", tmp_path / "out", "--table", table, "--packages", "tiny-music"]


@needs_dpkg
def test_manifest_of_a_local_package(tmp_path, tiny):
    rows, arguments = tiny
    result = run_script(*arguments)
    assert result.returncode == 0, result.stderr
    assert "7 tracks, 0.00 h, 0 left out" in result.stdout
    tracks = read_manifest(tmp_path / "out" / "manifest.jsonl")
    names = [track.path.name for track in tracks]
    assert names == ["0.ogg", "1.wav", "2.ogg", "3.wav", "4.ogg", "mix.flac", "packed.wav"]  # double.ogg is 0.ogg
    assert [track.split for track in tracks] == ["train", "valid", "train", "train", "train", "test", "extra"]
    assert [track.weight for track in tracks] == [1, 1, 1, 1, 1, 0.5, 1]
    assert all(soundfile.info(track.path).duration == 1 == track.duration_in_s for track in tracks)
    assert tracks[0].metadata == {"package": "tiny-music", "game": "Tiny | Game", "licence": "CC0", "genre": ["Noise"]}
    assert tracks[5].metadata["bpm"] == 90 and "md5" not in tracks[5].metadata


@needs_dpkg
def test_two_file_song_is_the_scaled_sum(tmp_path, tiny):
    run_script(*tiny[1])
    folder = tmp_path / "out" / "tiny-music" / MUSIC / "song"
    mix, song, guitar = (read_audio(folder / name)[0] for name in ("mix.flac", "song.wav", "guitar.wav"))
    total = song.clone()
    total[:, : guitar.shape[1]] += guitar
    assert total.abs().max() > 1
    assert torch.allclose(mix, total / total.abs().max(), atol=1e-6)


@needs_dpkg
def test_attribution_names_every_track(tmp_path, tiny):
    run_script(*tiny[1])
    text = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    assert "| A song | Ann / Bob | Songs | CC0 |" in text
    assert "| `packed.wav` | see copyright |  | CC0 |" in text
    assert sum(line.endswith("| CC0 |") for line in text.splitlines()) == 7


@needs_dpkg
def test_second_run_changes_nothing_and_a_lost_file_comes_back(tmp_path, tiny):
    run_script(*tiny[1])
    before = snapshot(tmp_path / "out")
    assert run_script(*tiny[1]).returncode == 0
    assert snapshot(tmp_path / "out") == before
    shutil.rmtree(tmp_path / "out" / "tiny-music")
    (tmp_path / "out" / ".tiny-music.partial").mkdir()  # what an interrupted run leaves
    assert run_script(*tiny[1]).returncode == 0
    assert snapshot(tmp_path / "out").keys() == before.keys()


@needs_dpkg
def test_damaged_file_is_named_and_left_out(tmp_path):
    rows = make_package(tmp_path / "debs", tmp_path / "build", num_plain=9)  # one of 11 is less than a tenth
    table = write_table(tmp_path / "table.jsonl", rows)
    arguments = ["--output_dir", tmp_path / "out", "--download_dir", tmp_path / "debs", "--table", table]
    arguments += ["--preset", "full"]
    assert "11 tracks" in run_script(*arguments).stdout
    damaged = tmp_path / "out" / "tiny-music" / MUSIC / "3.wav"
    damaged.write_bytes(damaged.read_bytes()[:-2])
    result = run_script(*arguments)
    assert result.returncode == 0
    assert "3.wav: md5" in result.stderr and "10 tracks, 0.00 h, 1 left out" in result.stdout
    names = [track.path.name for track in read_manifest(tmp_path / "out" / "manifest.jsonl")]
    assert len(names) == 10 and "3.wav" not in names


@needs_dpkg
@pytest.mark.parametrize("path", [f"{MUSIC}/1.wav", f"{MUSIC}/song/guitar.wav"])
def test_more_than_a_tenth_bad_stops_with_status_2_and_writes_nothing(tmp_path, tiny, path):
    run_script(*tiny[1])
    for name in ("manifest.jsonl", "ATTRIBUTION.md"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "tiny-music" / path).unlink()
    result = run_script(*tiny[1])
    assert result.returncode == 2
    assert f"{path}: missing" in result.stderr
    assert "error: 1 of 7 tracks are missing or differ" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


@needs_dpkg
def test_broken_package_is_named_and_leaves_no_folder(tmp_path, tiny):
    (tmp_path / "out" / "debs" / "tiny-music_1.0_all.deb").write_bytes(b"not a package")
    result = run_script(*tiny[1])
    assert result.returncode == 2
    assert "tiny-music: dpkg -x failed" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["debs"]


def test_missing_tools_give_one_clear_line(tmp_path):
    row = {"package": "tiny-music", "path": "a.ogg", "md5": "0", "duration_in_s": 1, "split": "train"}
    table = write_table(tmp_path / "table.jsonl", [row])
    (tmp_path / "bin").mkdir()
    arguments = ["--output_dir", tmp_path / "out", "--table", table, "--preset", "full"]
    result = run_script(*arguments, path=str(tmp_path / "bin"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("prepare_music.py: error: apt-get and dpkg not found")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--packages", "no-such-music"], "has no package no-such-music"),
        (["--table", "missing.jsonl"], "missing.jsonl cannot be read"),
        (["--preset", "ci", "--packages", "zaz-data"], "not allowed with"),
    ],
)
def test_wrong_arguments_give_status_2(tmp_path, arguments, message):
    result = run_script("--output_dir", tmp_path / "out", *arguments)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def committed_rows() -> list[dict]:
    return [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]


def test_committed_table_is_complete_and_split_by_game():
    rows = committed_rows()
    assert len(rows) == 474 and TABLE.stat().st_size < 400_000
    assert len({row["md5"] for row in rows}) == len({(row["package"], row["path"]) for row in rows}) == len(rows)
    assert all(row["split"] in SPLITS and row["duration_in_s"] >= 30 and row["licence"] for row in rows)
    assert all(available_fields(row) for row in rows)
    assert all(isinstance(row["bpm"], int) and 30 <= row["bpm"] <= 300 for row in rows if "bpm" in row)
    splits_of_package = {row["package"]: set() for row in rows}
    for row in rows:
        splits_of_package[row["package"]].add(row["split"])
    assert all(len(splits - {"extra"}) <= 1 for splits in splits_of_package.values())


def test_presets_name_packages_of_the_table_and_have_training_and_validation_tracks():
    script = runpy.run_path(SCRIPT)
    for packages in script["PRESETS"].values():
        splits = {row["split"] for row in script["read_table"](TABLE, packages)}
        assert splits >= {"train", "valid"}
    assert len(script["read_table"](TABLE, None)) == 474
