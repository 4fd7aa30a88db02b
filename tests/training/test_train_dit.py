"""From latents to a pipeline by the real scripts: encode_latents, train_dit (two stages, resumed), make_checkpoint."""

import json

import pytest
import torch
import yaml
from launch import check_script, run_script
from safetensors.torch import load_file
from tiny_training import DIT

from stable_longform.data.latents import LatentWindows
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.utils.audio import read_audio

MODEL, SETTINGS = DIT["model"], DIT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds everything that the scripts read and write."""
    return tmp_path_factory.mktemp("dit")


@pytest.fixture(scope="module")
def other_autoencoder(folder):
    """Another autoencoder than the one that encoded the latents."""
    torch.manual_seed(1)
    AutoencoderOobleck(4, (2, 4, 4, 8, 8), (1, 2, 2, 2, 2), 4, 4).save_pretrained(folder / "other")
    return folder / "other"


@pytest.fixture(scope="module")
def train(folder, latents, clap):
    """A function that trains into a folder of a given name."""

    def run(name: str, *arguments: object, settings: dict = SETTINGS):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        check_script("train_dit.py", "--config", folder / f"{name}.yaml", "--latents", latents, "--clap", clap,
                     "--output_dir", folder / name, *arguments)  # fmt: skip
        return folder / name

    return run


@pytest.fixture(scope="module")
def trained(train):
    """Four steps at once."""
    return train("whole", "--max_steps", 4)


def test_encoding_again_keeps_what_is_there(latents, tiny_manifest, autoencoder):
    before = {path: path.stat().st_mtime_ns for path in latents.glob("*-*.safetensors")}
    check_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", autoencoder,
                 "--output_dir", latents)  # fmt: skip
    assert before == {path: path.stat().st_mtime_ns for path in latents.glob("*-*.safetensors")}


def test_latents_of_another_autoencoder_are_refused(latents, tiny_manifest, folder, other_autoencoder):
    finished = run_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", other_autoencoder,
                          "--output_dir", latents)  # fmt: skip
    assert finished.returncode == 2 and "another autoencoder" in finished.stderr
    finished = run_script("train_dit.py", "--latents", latents, "--autoencoder", other_autoencoder, "--clap", "clap",
                          "--output_dir", folder / "wrong")  # fmt: skip
    assert finished.returncode == 2 and "latents of another autoencoder than the one given" in finished.stderr


def test_windows_are_functions_of_seed_and_index(latents):
    first, second = (LatentWindows(latents, "train", 16, seed=3) for _ in range(2))
    for index in (5, 0, 5):
        assert torch.equal(first[index]["latents"], second[index]["latents"])
        assert first[index]["prompt"] == second[index]["prompt"]
    other = LatentWindows(latents, "train", 16, seed=4)
    assert not torch.equal(first[0]["latents"], other[0]["latents"])


def test_timing_follows_the_crop(latents):
    windows = LatentWindows(latents, "train", 8, seed=0)
    longest = max(track.latent_length for track in windows.tracks)
    starts = {windows[index]["seconds_start"] for index in range(60)}
    assert starts <= set(range(int((longest - 8) * 2048 / 44100) + 1)) and len(starts) > 1
    assert {windows[index]["seconds_total"] for index in range(60)} <= {3.0, 4.0, 5.0, 6.0}


def test_short_tracks_end_in_silence(latents):
    windows = LatentWindows(latents, "train", 512, seed=0)
    silence = windows.silence["mean"].float()
    spread = windows.silence["std"].float()
    tail = windows[0]["latents"][:, -300:]
    assert ((tail - silence) / spread).std() == pytest.approx(1, abs=0.05)


def test_training_writes_finite_metrics_and_models(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert all(0 < row["loss"] < 100 for row in rows if "loss" in row)
    assert 0 < rows[-1]["valid/loss"] < 100
    assert DiTTransformer1D.from_pretrained(trained / "dit", subfolder="transformer").config.patch_size == 2


def test_validation_is_also_told_by_time(trained):
    row = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    buckets = [row["valid/loss_t0.00-0.50"], row["valid/loss_t0.50-1.00"]]
    assert sum(buckets) / 2 == pytest.approx(row["valid/loss"]) and buckets[0] != buckets[1]


def test_rate_falls_at_the_end_and_attention_has_a_choice(train, trained):
    options = ["--decay_start", 0.5, "--final_rate", 0, "--attention_backend", "_native_math"]
    falling = train("falling", "--max_steps", 4, *options)
    logs = [(run / "metrics.jsonl").read_text().splitlines() for run in (trained, falling)]
    paper, rows = ([row for row in map(json.loads, log) if "loss" in row] for log in logs)
    factors = [row["learning_rate"] / other["learning_rate"] for row, other in zip(rows, paper, strict=True)]
    assert factors == pytest.approx([1, 1, 1, 0.5])
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in paper], rel=1e-5)


def test_two_steps_and_two_more_equal_four(train, trained):
    resumed = train("resumed", "--max_steps", 2)
    train("resumed", "--max_steps", 4)
    whole, parts = (load_file(run / "checkpoint-00000004" / "model.safetensors") for run in (trained, resumed))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    assert sorted(path.name for path in resumed.glob("checkpoint-*")) == ["checkpoint-00000002", "checkpoint-00000004"]


def test_short_window_carries_over_to_a_long_one_and_to_a_pipeline(
    train, trained, folder, autoencoder, clap, latents, other_autoencoder
):
    settings = {**SETTINGS, "model": {**MODEL, "sample_size": 64}, "learning_rate": 1e-8}
    demos = ["--demo_every", 1, "--demo_steps", 2, "--demo_duration_in_s", 1, "--num_demos", 1, "--autoencoder"]
    start = ["--init_from", trained / "dit", "--excerpt_probability", 0.5, "--balance_silence", "true"]
    long = train("long", "--max_steps", 1, *start, *demos, autoencoder, settings=settings)
    audio = {path.name: read_audio(path)[0] for path in (long / "demos" / "step-00000001").iterdir()}
    assert set(audio) == {"0-real.flac", "0-guidance-1.flac", "0-guidance-7.flac"}
    assert {waveform.shape for waveform in audio.values()} == {(2, 44100)}
    assert not torch.equal(audio["0-guidance-1.flac"], audio["0-guidance-7.flac"])
    last = json.loads((long / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"demo/{name}/flatness" for name in ("real", "guidance-1", "guidance-7")} < set(last)
    stage = json.loads((long / "dit" / "stage.json").read_text())
    assert (stage["stage"], stage["step"], stage["window_length"]) == ("dit", 1, 64)
    before = stage["sources"]["init_from"]
    assert before["path"] == str(trained / "dit") and len(before["sha256"]) == 2
    assert (before["stage"]["step"], before["stage"]["window_length"]) == (4, 16)
    made_by = json.loads((latents / "latents.json").read_text())["encoder_sha256"]
    assert stage["sources"]["latents"]["latents"]["encoder_sha256"] == made_by
    for part in ("transformer", "timing_conditioner"):
        before, after = (load_file(next((run / "dit" / part).glob("*.safetensors"))) for run in (trained, long))
        assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    check_script("make_checkpoint.py", "--autoencoder", autoencoder, "--clap", clap, "--dit", long / "dit",
                 "--output_dir", folder / "checkpoint", "--sigma_min", 0.1, "--license", "mit",
                 "--guidance_interval", "[0.0, 0.9]", "--window_in_s", "[0.743, 2.972]",
                 "--num_inference_steps", 7, "--guidance_scale", 3.5, "--max_shard_size_in_mb", 1)  # fmt: skip
    refused = run_script("make_checkpoint.py", "--autoencoder", other_autoencoder, "--clap", clap,
                         "--dit", long / "dit", "--output_dir", folder / "wrong")  # fmt: skip
    assert refused.returncode == 2 and "latents of another autoencoder" in refused.stderr
    assert not (folder / "wrong").exists()
    card = (folder / "checkpoint" / "README.md").read_text()
    assert "license: mit" in card and "| transformer | 1 | 2 | 0 |" in card and "| transformer, valid/loss | " in card
    configs = [path.read_text() for path in (folder / "checkpoint").rglob("*config.json")]
    assert len(configs) > 4 and not any(str(folder) in text for text in configs)  # where the parts lay is private
    pipe = LongFormMusicPipeline.from_pretrained(folder / "checkpoint")
    assert pipe.max_duration_in_s == pytest.approx(64 * 2048 / 44100)
    assert list(pipe.config.guidance_interval) == [0.0, 0.9] and list(pipe.config.window_in_s) == [0.743, 2.972]
    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale) == (7, 3.5)
    for duration, length in ((0.5, 16), (1.5, 64)):  # those of the two stages
        latents = pipe("Genre: Rock", duration=duration, num_inference_steps=1, output_type="latent").audios
        assert latents.shape[-1] == length
    result = pipe("Genre: Rock", duration=1.5, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert result.audios[0].shape == (2, round(1.5 * 44100)) and torch.isfinite(result.audios[0]).all()
