"""Encoding by the real script: what is encoded is kept, whoever stops it; bad tracks, streams, two processes."""

import functools
import json
from pathlib import Path

import pytest
import torch
from corpora import RATE, write_folder, write_tar
from corpora import encode as encode_audio
from launch import check_processes, check_script, run_script
from safetensors.torch import load_file

from stable_longform.data.latents import read_latent_index
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

NUM_TRACKS = 5


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("autoencoder")
    AutoencoderOobleck(4, (2, 4, 4, 8, 8), (1, 2, 2, 2, 2), 4, 4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def audio() -> dict[str, bytes]:
    return {f"{number}.wav": encode_audio(number, "wav", RATE) for number in range(NUM_TRACKS)}


@pytest.fixture
def music(tmp_path, audio) -> Path:
    """A folder of five tracks of 1 s with a genre each, the last one valid."""
    folder = write_folder(tmp_path / "music", audio)
    for number in range(NUM_TRACKS):
        row = {"genre": f"genre {number}", "split": "valid" if number == NUM_TRACKS - 1 else "train"}
        (folder / f"{number}.json").write_text(json.dumps(row))
    return folder


@pytest.fixture
def encode(music, autoencoder, tmp_path):
    """A function that encodes the folder of music, or another source, by the script."""

    def run(name: str = "latents", *options: object, manifest: object = music, check=check_script):
        arguments = ("--manifest", manifest, "--autoencoder", autoencoder, "--tracks_per_shard=2", *options)
        return check("encode_latents.py", *arguments, "--output_dir", tmp_path / name)

    return run


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Means by genre."""
    tracks = read_latent_index(folder)
    return {track.metadata["genre"]: load_file(track.file)[track.tensor_name("mean")] for track in tracks}


def shards(folder: Path) -> dict[Path, int]:
    """The shards of a folder and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}


def test_what_is_there_is_kept(encode, tmp_path):
    folder = tmp_path / "latents"
    encode()
    written = shards(folder)
    assert len(written) == 3 and set(tensors(folder)) == {f"genre {number}" for number in range(NUM_TRACKS)}
    removed = sorted(written)[1]
    expected, lost = tensors(folder), load_file(removed)
    removed.unlink()
    encode()
    assert {path: time for path, time in written.items() if path != removed}.items() <= shards(folder).items()
    again = tensors(folder)
    assert again.keys() == expected.keys() and all(torch.equal(again[genre], expected[genre]) for genre in expected)
    assert sum(len(load_file(path)) for path in set(shards(folder)) - set(written) | {removed}) == len(lost)


def test_the_index_has_what_the_source_says_now(encode, music, tmp_path):
    encode()
    written = shards(tmp_path / "latents")
    (music / "0.json").write_text('{"genre": "another", "split": "train", "weight": 3}')
    encode()
    assert shards(tmp_path / "latents") == written
    track = next(track for track in read_latent_index(tmp_path / "latents") if track.weight == 3)
    assert track.metadata == {"genre": "another"}


def test_bad_tracks_are_left_out(encode, music, tmp_path):
    whole = (music / "1.wav").read_bytes()
    (music / "1.wav").write_bytes(whole[: len(whole) // 2])
    (music / "1.json").write_text('{"genre": "genre 1", "split": "train", "duration_in_s": 1.0}')
    finished = encode("latents", "--max_bad_fraction=0.2")
    assert "1.wav: mislabelled" in finished.stderr.replace("\n", " ")
    assert set(tensors(tmp_path / "latents")) == {"genre 0", "genre 2", "genre 3", "genre 4"}
    refused = encode("strict", check=run_script)
    assert refused.returncode == 2 and "1 of 5 tracks cannot be used" in refused.stderr


def test_streams(encode, audio, tmp_path):
    for shard in range(2):
        files = {}
        for number in range(shard, NUM_TRACKS, 2):
            row = {"genre": f"genre {number}", "split": "valid" if number == NUM_TRACKS - 1 else "train"}
            files |= {f"{number}.wav": audio[f"{number}.wav"], f"{number}.json": json.dumps(row).encode()}
        write_tar(tmp_path / f"{shard}.tar", files)
    source = f"stream:{tmp_path}/{{0..1}}.tar"
    encode("streamed", manifest=source)
    written = shards(tmp_path / "streamed")
    encode("streamed", manifest=source)
    assert shards(tmp_path / "streamed") == written  # nothing was left to do
    encode("listed")
    streamed, listed = tensors(tmp_path / "streamed"), tensors(tmp_path / "listed")
    assert streamed.keys() == listed.keys() and all(torch.equal(streamed[genre], listed[genre]) for genre in listed)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--splits=[dev]", "splits must be a list of train, valid, test, extra, at least 1 of them, got ['dev']"),
        ("--tracks_per_shard=0", "tracks_per_shard must be a whole number in [1, 65536], got 0"),
        ("--splits=[test]", "has no track in split 'test'"),
    ],
)
def test_wrong_configurations_are_told(encode, tmp_path, option, message):
    finished = encode("latents", option, check=run_script)
    assert finished.returncode == 2 and message in finished.stderr.splitlines()[-1]
    assert not (tmp_path / "latents").exists()


def test_two_processes_share_the_tracks(encode, tmp_path):
    encode("one")
    encode("two", check=functools.partial(check_processes, 2))
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[genre], two[genre]) for genre in one)
    assert len(shards(tmp_path / "two")) == 3  # 2 and 1 of one process, 2 of the other
