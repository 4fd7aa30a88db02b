"""Every loop of the training benchmark runs on tiny networks; stable-audio-tools' losses are ours."""

import functools
import importlib.util
import sys
from pathlib import Path

import pytest
import script_config
import torch
import training_speed
from launch import run_script
from tiny_training import AUTOENCODER

from stable_longform.losses.stft import stereo_stft_loss
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.stable_audio_tools_keys import autoencoder_keys
from stable_longform.training_utils.adversarial_steps import discriminator_step_losses, generator_step_losses
from stable_longform.utils.key_maps import to_theirs

STABLE_AUDIO_TOOLS = importlib.util.find_spec("stable_audio_tools")
needs_peer = pytest.mark.skipif(STABLE_AUDIO_TOOLS is None, reason="needs stable-audio-tools")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
TINY = {
    "autoencoder": {
        key: AUTOENCODER[key] for key in ("model", "discriminator", "fft_sizes", "crop_num_samples", "num_workers")
    },
    "clap": {
        "audio_config": {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 1],
                         "enable_fusion": False},
        "text_config": {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "intermediate_size": 16, "max_position_embeddings": 80},
        "projection_dim": 8,
        "crop_duration_in_s": 1.0,
        "num_workers": 0,
    },
    "dit": {
        "model": {"sample_size": 16, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 1,
                  "num_key_value_attention_heads": 1, "cross_attention_dim": 64, "cross_attention_input_dim": 64,
                  "global_states_input_dim": 128},
        "timing": {"conditioning_dim": 64},
        "num_workers": 0,
    },
}  # fmt: skip


@pytest.fixture
def training(monkeypatch):
    """The benchmark with tiny networks; its scripts say their configuration in a fork, which is quicker."""
    for name, value in (("SMALL", TINY), ("NUM_TRACKS", 8), ("TRACK_IN_S", 1.5), ("WARMUP_STEPS", 0)):
        monkeypatch.setattr(training_speed, name, value)
    monkeypatch.setattr(script_config.subprocess, "run", lambda command, **_: run_script(*command[1:]))
    return training_speed


def make_config(training, stage: str, folder: Path):
    checkout = ["--stable_audio_tools", str(Path(STABLE_AUDIO_TOOLS.origin).parents[1])] if STABLE_AUDIO_TOOLS else []
    options, overrides = training.parse_arguments(
        ["--steps", "2", "--batch_size", "2", "--mixed_precision=no", *checkout]
    )
    assert overrides == ["--mixed_precision=no"]
    training.make_music(folder)
    return training.make_config(stage, options, overrides, folder), options


@pytest.mark.parametrize("stage", ["autoencoder", "clap", "dit"])
def test_every_loop(training, tmp_path, capsys, stage):
    config, options = make_config(training, stage, tmp_path)
    loops = {"plain": training.run_plain, "script": training.run_script}
    if options.stable_audio_tools and training.training_peer.why_not(stage, config) is None:
        loops["stable-audio-tools"] = training.run_stable_audio_tools
    runs = {name: [training.measure(loop, stage, config, options)] for name, loop in loops.items()}
    num_medians = 1 if stage == "autoencoder" else 2  # pairs of turns
    for ((seconds, memory),) in runs.values():
        assert seconds.shape == (num_medians, 2) and seconds.min() > 0 and memory >= 0
    capsys.readouterr()
    training.print_rows(stage, runs, options.batch_size)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows] == [[stage, name] for name in loops] and rows[0][3:5] == ["1.00", "1.00"]


def test_what_it_cannot_compare(training, tmp_path):
    assert training.training_peer.why_not("clap", None) == "it trains no CLAP"
    config, _ = make_config(training, "dit", tmp_path)
    assert training.training_peer.why_not("dit", config) is None
    config.model["cross_attention_input_dim"] = 32
    assert "as wide as" in training.training_peer.why_not("dit", config)


def test_odd_steps(training):
    with pytest.raises(ValueError, match="--steps: must be a whole number in .*, a multiple of 2, got '3'"):
        training.parse_arguments(["--steps", "3"])


@needs_peer
def test_stable_audio_tools_losses_are_ours(training, tmp_path):
    config, options = make_config(training, "autoencoder", tmp_path)
    config.loss_weights["l1"] = 0.3
    torch.manual_seed(0)
    peer = training.training_peer
    model = AutoencoderOobleck(**config.model)
    judge = MultiScaleSTFTDiscriminator(**config.discriminator)
    spectral_losses = functools.partial(stereo_stft_loss, sampling_rate=44100, fft_sizes=config.fft_sizes)
    theirs = peer.AutoencoderLosses(peer.load(options.stable_audio_tools), config, torch.device("cpu"))
    theirs.model.load_state_dict(to_theirs(autoencoder_keys(model.config), model.state_dict()))
    weights = {f"discriminators.{key}": value for key, value in judge.state_dict().items()}
    absent, unknown = theirs.judge.load_state_dict(weights, strict=False)
    assert all(key.endswith("spec_transform.window") for key in absent) and not unknown
    waveform = torch.rand(2, 2, config.crop_num_samples) - 0.5
    ours = {}
    torch.manual_seed(1)
    ours["generator"] = generator_step_losses(model, judge, waveform, spectral_losses)
    torch.manual_seed(1)
    ours["discriminator"] = discriminator_step_losses(model, judge, waveform)
    torch.manual_seed(1)
    for turn, loss in theirs(waveform).items():
        weights = {"discriminator": 1.0} | config.loss_weights
        expected = sum(weights[name] * value for name, value in ours[turn].items())
        torch.testing.assert_close(loss(), expected, rtol=1e-4, atol=0)
