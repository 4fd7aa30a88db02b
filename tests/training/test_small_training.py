"""All stages on about an hour of real music, in less than half an hour on two CPU cores, and what they must achieve.

    STABLE_LONGFORM_CORPUS=corpus/manifest.jsonl python -m pytest -m slow tests/training/test_small_training.py -s

The corpus is that of `training/prepare_music.py --preset core`, or any with 200 tracks of which prompts can be made.
The first 20 s of each are used, so that an hour has many tracks. STABLE_LONGFORM_SHARE=0.02 makes 2 % of the steps,
which shows that all stages fit together; then nothing is expected of the result.
"""

import contextlib
import json
import os
import random
import time
from pathlib import Path

import pytest
import torch
import yaml
from launch import RunningScript, check_processes, check_script
from transformers import ClapModel, ClapProcessor

from stable_longform.data.audio_crops import CropMaker
from stable_longform.data.clap_pairs import PairMaker
from stable_longform.data.latents import LatentWindows, collate_windows
from stable_longform.data.manifest import manifest_row, read_manifest
from stable_longform.data.prompts import available_fields, build_prompt
from stable_longform.data.sources import open_source
from stable_longform.metrics.embedders.mel44 import Mel44Embedder
from stable_longform.metrics.frechet import GaussianStatistics, frechet_distance
from stable_longform.metrics.reconstruction import si_sdr, stft_distance
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import encode_texts
from stable_longform.noise_schedule import velocity
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.training_utils.clap_networks import embed_pairs
from stable_longform.training_utils.v_objective import VelocityLoss

CORPUS = os.environ.get("STABLE_LONGFORM_CORPUS")
SHARE = float(os.environ.get("STABLE_LONGFORM_SHARE", "1"))
TRACK_IN_S, NUM_TRAINING_TRACKS = 20.0, 180  # an hour
SEED = 2**29
NUM_DRAWS = 5
AUTOENCODER = {
    "model": {
        "encoder_hidden_size": 16,
        "decoder_channels": 16,
        "downsampling_ratios": [4, 4, 4, 8],  # 512 in all: phase can be learned in ten minutes
        "channel_multiples": [1, 2, 4, 8],
        "decoder_input_channels": 32,
    },
    "loss_weights": {"l1": 20.0, "kl": 1e-4, "complex_stft": 4.0},
    "fft_sizes": [2048, 512, 128],
    "complex_fft_sizes": [2048, 1024],
    "is_a_weighted": False,
    "crop_num_samples": 16384,
    "batch_size": 4,
    "max_steps": 800,
    "discriminator_start_step": 10**6,
    "learning_rate": 1e-3,
    "inv_gamma": 500,
    "warmup": 0.97,
    "max_grad_norm": 1.0,
    "decay_start": 0.5,
    "ema_decay": 0.99,
    "num_validation_crops": 16,
}
LINEAR_START = {
    "model": AUTOENCODER["model"],
    "crop_num_samples": 16384,
    "edge_num_samples": 1024,
    "max_steps": 400,
}
CLAP = {
    "audio_config": {
        "patch_embeds_hidden_size": 16,
        "depths": [2, 2, 2, 2],
        "num_attention_heads": [2, 2, 4, 4],
        "enable_fusion": False,
    },
    "text_config": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 80,
    },
    "tokenizer": None,
    "projection_dim": 128,
    "crop_duration_in_s": 5.0,
    "batch_size": 32,
    "max_steps": 250,
    "warmup_steps": 20,
    "learning_rate": 1e-3,
}
DIT = {
    "model": {
        "sample_size": 860,  # 10 s
        "in_channels": 32,
        "out_channels": 32,
        "num_layers": 4,
        "num_attention_heads": 4,
        "attention_head_dim": 48,
        "num_key_value_attention_heads": 4,
        "cross_attention_dim": 192,
        "cross_attention_input_dim": 128,
        "global_states_input_dim": 256,
        "patch_size": 4,
    },
    "timing": {"conditioning_dim": 128},
    "batch_size": 8,
    "max_steps": 1200,
    "learning_rate": 1e-3,
    "inv_gamma": 500,
    "ema_decay": 0.99,
    "num_validation_windows": 32,
}
COMMON = {"num_workers": 1, "mixed_precision": "no", "num_samples": 0, "max_bad_fraction": 0.1}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CORPUS is None, reason="STABLE_LONGFORM_CORPUS names no manifest of real music"),
]
expects_results = pytest.mark.skipif(SHARE < 1, reason="too few steps to expect anything")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the cut corpus and the runs."""
    folder = tmp_path_factory.mktemp("small")
    tracks = [track for track in read_manifest(CORPUS) if track.split in ("train", "valid")]
    random.Random(0).shuffle(tracks)
    chosen = [track for track in tracks if track.split == "train"][:NUM_TRAINING_TRACKS]
    chosen += [track for track in tracks if track.split == "valid"]
    rows = []
    for track in chosen:
        row = manifest_row(track, folder) | {"path": str(Path(track.path).resolve())}
        rows.append(json.dumps(row | {"duration_in_s": min(track.duration_in_s, TRACK_IN_S), "weight": 1.0}))
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    return folder


def start(script: str, folder: Path, name: str, settings: dict, num_threads: int, **paths: Path) -> RunningScript:
    """Starts to train with some settings."""
    steps = max(round(settings["max_steps"] * SHARE), 4)
    intervals = {"max_steps": steps, "save_every": steps, "validate_every": steps, "log_every": max(steps // 20, 1)}
    settings = {key: value for key, value in (COMMON | settings | intervals).items() if key not in paths}
    if script != "train_autoencoder.py":
        settings.pop("num_samples", None)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings | {key: str(path) for key, path in paths.items()}))
    arguments = ("--config", folder / f"{name}.yaml", "--output_dir", folder / name)
    return RunningScript(script, *arguments, environment={"OMP_NUM_THREADS": str(num_threads)})


def finish(running: RunningScript, run: Path) -> Path:
    """Waits for a training and prints its last metrics; returns the folder of the run."""
    finished = running.wait(3600)
    assert finished.returncode == 0, finished.stderr[-3000:]
    print(f"{run.name}: {(run / 'metrics.jsonl').read_text().splitlines()[-1]}")
    return run


@contextlib.contextmanager
def timed(name: str):
    """Prints how long something took."""
    start = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - start:.0f} s")


@pytest.fixture(scope="module")
def first_stages(folder) -> tuple[Path, Path]:
    """The runs of the autoencoder and of CLAP, which need nothing of each other: one core each."""
    with timed("autoencoder and CLAP"):
        paths = {"manifest": folder / "manifest.jsonl"}
        clap = start("train_clap.py", folder, "clap", CLAP, 1, **paths)
        linear = start("train_linear_start.py", folder, "linear_start", LINEAR_START, 1, **paths)
        paths["init_from"] = finish(linear, folder / "linear_start") / "autoencoder"
        autoencoder = start("train_autoencoder.py", folder, "autoencoder", AUTOENCODER, 1, **paths)
        return finish(autoencoder, folder / "autoencoder"), finish(clap, folder / "clap")


@pytest.fixture(scope="module")
def autoencoder(folder, first_stages) -> Path:
    """Trained, with latents of unit power."""
    with timed("normalization"):
        check_script("normalize_latents.py", "--autoencoder", first_stages[0] / "autoencoder",
                     "--manifest", folder / "manifest.jsonl", "--output_dir", folder / "normalized",
                     "--num_crops", 16)  # fmt: skip
    return folder / "normalized"


@pytest.fixture(scope="module")
def clap(first_stages) -> Path:
    """The run of CLAP."""
    return first_stages[1]


@pytest.fixture(scope="module")
def latents(folder, autoencoder) -> Path:
    """The tracks, encoded by two processes."""
    with timed("encoding"):
        check_processes(2, "encode_latents.py", "--manifest", folder / "manifest.jsonl", "--autoencoder", autoencoder,
                        "--output_dir", folder / "latents", "--max_bad_fraction", 0.1, timeout_in_s=3600)  # fmt: skip
    return folder / "latents"


@pytest.fixture(scope="module")
def pipe(folder, autoencoder, clap, latents) -> LongFormMusicPipeline:
    """The pipeline of all parts."""
    with timed("transformer"):
        run = finish(start("train_dit.py", folder, "dit", DIT, 2, latents=latents, clap=clap / "clap"), folder / "dit")
    check_script("make_checkpoint.py", "--autoencoder", autoencoder, "--clap", clap / "clap", "--dit", run / "dit",
                 "--output_dir", folder / "checkpoint", "--sigma_min", 0.1)  # fmt: skip
    pipe = LongFormMusicPipeline.from_pretrained(folder / "checkpoint")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def held_out(folder: Path, num_crops: int, duration_in_s: float) -> list[torch.Tensor]:
    """Crops `(2, num_samples)` of the valid split."""
    num_samples = round(duration_in_s * 44100) // 512 * 512
    source = open_source(folder / "manifest.jsonl", "valid", max_bad_fraction=0.1)
    crops = source.items(CropMaker(num_samples, phase_flip_probability=0.0), SEED)
    return [item["waveform"] for item in crops.take(num_crops)]


def test_all_stages_fit_together(pipe):
    audio = pipe("Genre: Rock", 5.0, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).audios[0]
    assert audio.shape == (2, 5 * 44100) and audio.isfinite().all() and audio.std() > 0


@expects_results
@torch.no_grad()
def test_reconstruction_beats_an_untrained_network_and_the_mean(folder, autoencoder):
    trained = AutoencoderOobleck.from_pretrained(autoencoder)
    torch.manual_seed(0)
    untrained = AutoencoderOobleck(**AUTOENCODER["model"])
    crops = held_out(folder, 16, 3.0)
    posteriors = [trained.encode(crop[None]).latent_dist.mode() for crop in crops]
    mean = torch.cat(posteriors, dim=2).mean(dim=2, keepdim=True)
    decoded = {
        "trained": [trained.decode(latents).sample[0] for latents in posteriors],
        "untrained": [untrained(crop[None]).sample[0] for crop in crops],
        "mean latent": [trained.decode(mean.expand_as(latents)).sample[0] for latents in posteriors],
    }
    results = {}
    for name, waveforms in decoded.items():
        pairs = list(zip(waveforms, crops, strict=True))
        results[name] = [sum(metric(*pair) for pair in pairs) / len(pairs) for metric in (stft_distance, si_sdr)]
        print(f"{name}: STFT distance {results[name][0]:.3f}, SI-SDR {results[name][1]:.2f} dB")
    for baseline in ("untrained", "mean latent"):
        assert results["trained"][0] < results[baseline][0] and results["trained"][1] > results[baseline][1]


@expects_results
@torch.no_grad()
def test_retrieval_is_above_chance(folder, clap):
    """How often a track is more like its own prompt than like another's; 0.5 is chance. Held-out tracks."""
    model, processor = (kind.from_pretrained(clap / "clap") for kind in (ClapModel, ClapProcessor))
    source = open_source(folder / "manifest.jsonl", "valid", max_bad_fraction=0.1)
    tracks = source.tracks
    wins = torch.zeros(len(tracks))
    for seed in range(NUM_DRAWS):
        make_item = PairMaker(processor.feature_extractor, CLAP["crop_duration_in_s"])
        items = source.sample(make_item, len(tracks), seed)
        batch = torch.utils.data.default_collate(items)
        audio, text = embed_pairs(model, processor.tokenizer, batch, torch.device("cpu"))
        similarity = audio @ text.T
        own = similarity.diagonal()[:, None]
        share = ((similarity < own).sum(dim=1) + (similarity.T < own).sum(dim=1)) / (2 * len(tracks) - 2)
        wins[[item["track"] for item in items]] += share / NUM_DRAWS
    error = wins.std() / len(tracks) ** 0.5  # tracks are independent, draws of a track are not
    print(f"own prompt wins in {wins.mean():.3f} ± {error:.3f} of the pairs")
    assert wins.mean() > 0.55 and wins.mean() - 0.5 > 3 * error


@expects_results
@torch.no_grad()
def test_velocity_beats_zero_and_the_unconditional_prediction(pipe, latents):
    velocity_loss = VelocityLoss(pipe.transformer, pipe.timing_conditioner)
    windows = LatentWindows(latents, "valid", pipe.transformer.config.sample_size, seed=SEED)
    names, count = ("conditional", "unconditional", "zero"), 192  # the condition explains little of the loss
    losses = torch.zeros(count, len(names))
    for i in range(count):
        batch = collate_windows([windows[i]])
        batch["prompt_embeds"] = encode_texts(pipe.text_encoder, pipe.tokenizer, batch["prompt"])[0]
        batch["noise"] = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(i))
        batch["timestep"] = torch.tensor([(i + 0.5) / count])
        for column, is_dropped in enumerate((False, True)):
            losses[i, column] = velocity_loss(batch | {"is_dropped": torch.tensor([is_dropped])})
        losses[i, 2] = velocity(batch["latents"], batch["noise"], batch["timestep"]).square().mean()
    gain = losses[:, 1] - losses[:, 0]
    print(dict(zip(names, losses.mean(dim=0).tolist(), strict=True)))
    print(f"the condition gains {gain.mean():.4f} ± {gain.std() / count**0.5:.4f}")
    assert losses[:, 0].mean() < losses[:, 2].mean() and gain.mean() > 0


@expects_results
def test_generated_music_is_closer_to_real_music_than_noise_is(folder, pipe):
    tracks = [track for track in read_manifest(folder / "manifest.jsonl", "valid") if available_fields(track.metadata)]
    prompts = [build_prompt(track.metadata, random.Random(i)) for i, track in enumerate(tracks[:12])]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    generated = pipe(prompts, 9.5, num_inference_steps=30, guidance_scale=3.0, generator=generators).audios
    real = held_out(folder, 24, 9.5)
    level = torch.stack(real).std()
    noise = [torch.randn(2, real[0].shape[1], generator=generator) * level for generator in generators]

    def statistics(waveforms) -> GaussianStatistics:
        embeddings = [torch.from_numpy(Mel44Embedder()(waveform.float()).embeddings) for waveform in waveforms]
        return GaussianStatistics.from_embeddings(torch.cat(embeddings).numpy())

    distances = {
        name: frechet_distance(statistics(waveforms), statistics(real[:12]))
        for name, waveforms in (("generated", generated), ("noise", noise), ("other real music", real[12:]))
    }
    print(distances)
    assert distances["generated"] < 0.5 * distances["noise"]
