"""Encoding by the real script: what is encoded is kept, whoever stops it; bad tracks, streams, two processes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from corpora import RATE, write_folder, write_tar
from corpora import encode as encode_audio
from launch import ROOT, RunningScript, process_environments
from safetensors.torch import load_file

from stable_longform.data.latents import read_latent_index, read_shards
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

sys.path.insert(0, str(ROOT / "training"))
import encode_latents  # noqa: E402
from encode_latents import Config, main  # noqa: E402

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
def config(tmp_path, music, autoencoder):
    """A function that gives a configuration."""
    fixed = {"manifest": str(music), "autoencoder": str(autoencoder), "output_dir": str(tmp_path / "latents")}
    return lambda **options: Config(**fixed | {"tracks_per_shard": 2} | options)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Counts what the script encodes, without the frame of silence; stops it after `encoded.limit` tracks."""

    class Calls(list):
        limit = 1000

    calls, encode = Calls(), encode_latents.encode

    def counted(vae, waveform):
        if waveform.any():
            if len(calls) >= calls.limit:
                raise KeyboardInterrupt
            calls.append(waveform.shape[1])
        return encode(vae, waveform)

    monkeypatch.setattr(encode_latents, "encode", counted)
    return calls


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Means by genre."""
    tracks = read_latent_index(folder)
    return {track.metadata["genre"]: load_file(track.file)[track.tensor_name("mean")] for track in tracks}


def test_a_stopped_run_goes_on_and_loses_nothing(config, encoded, tmp_path):
    whole = tmp_path / "whole"
    main(config(output_dir=str(whole)))
    assert len(encoded) == NUM_TRACKS and len(list(whole.glob("shard-*"))) == 3
    encoded.limit = NUM_TRACKS + 3
    with pytest.raises(KeyboardInterrupt):
        main(config())
    folder = tmp_path / "latents"
    shards = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert len(read_shards(folder)) == 3 and not (folder / "index.jsonl").exists()
    encoded.limit = 1000
    main(config())
    assert len(encoded) == NUM_TRACKS + 5  # none twice
    assert shards.items() <= {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}.items()
    first, second = tensors(whole), tensors(folder)
    assert first.keys() == second.keys() and len(first) == NUM_TRACKS
    assert all(torch.equal(first[genre], second[genre]) for genre in first)


def test_the_index_has_what_the_source_says_now(config, encoded, music, tmp_path):
    main(config())
    (music / "0.json").write_text('{"genre": "another", "split": "train", "weight": 3}')
    main(config())
    assert len(encoded) == NUM_TRACKS
    track = next(track for track in read_latent_index(tmp_path / "latents") if track.weight == 3)
    assert track.metadata == {"genre": "another"}


def test_bad_tracks_are_left_out(config, encoded, music, caplog, tmp_path):
    whole = (music / "1.wav").read_bytes()
    (music / "1.wav").write_bytes(whole[: len(whole) // 2])
    (music / "1.json").write_text('{"genre": "genre 1", "split": "train", "duration_in_s": 1.0}')
    main(config(max_bad_fraction=0.2))
    assert "1.wav: mislabelled" in caplog.text
    assert set(tensors(tmp_path / "latents")) == {"genre 0", "genre 2", "genre 3", "genre 4"}
    with pytest.raises(ValueError, match="1 of 5 tracks cannot be used"):
        main(config(output_dir=str(tmp_path / "strict")))


def test_streams(config, encoded, audio, tmp_path):
    for shard in range(2):
        files = {}
        for number in range(shard, NUM_TRACKS, 2):
            row = {"genre": f"genre {number}", "split": "valid" if number == NUM_TRACKS - 1 else "train"}
            files |= {f"{number}.wav": audio[f"{number}.wav"], f"{number}.json": json.dumps(row).encode()}
        write_tar(tmp_path / f"{shard}.tar", files)
    source = f"stream:{tmp_path}/{{0..1}}.tar"
    main(config(manifest=source))
    main(config(manifest=source))  # nothing is left to do
    assert len(encoded) == NUM_TRACKS
    streamed = tensors(tmp_path / "latents")
    main(config(output_dir=str(tmp_path / "listed")))
    listed = tensors(tmp_path / "listed")
    assert streamed.keys() == listed.keys() and all(torch.equal(streamed[genre], listed[genre]) for genre in listed)


def test_wrong_configurations_are_told(config):
    for options, message in (
        ({"splits": ("dev",)}, "splits must be among"),
        ({"tracks_per_shard": 0}, "tracks_per_shard must be at least 1, got 0"),
        ({"splits": ("test",)}, "has no track in split 'test'"),
    ):
        with pytest.raises(ValueError, match=message):
            main(config(**options))


def test_two_processes_share_the_tracks(config, encoded, music, autoencoder, tmp_path):
    main(config(output_dir=str(tmp_path / "one")))
    arguments = ("--manifest", music, "--autoencoder", autoencoder, "--tracks_per_shard", 2)
    running = [
        RunningScript("encode_latents.py", *arguments, "--output_dir", tmp_path / "two", environment=environment)
        for environment in process_environments(2)
    ]
    for process in running:
        finished = process.wait()
        assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[genre], two[genre]) for genre in one)
    assert len(list((tmp_path / "two").glob("shard-*"))) == 3  # 2 and 1 of one process, 2 of the other
