"""Whole conversions, on the command line: files in, a folder out that opens, and back."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from common import relative_error
from golden import CASES, model_config, state_dict
from safetensors.torch import load_file, save_file
from stable_audio import stable_audio_pipeline, tiny_t5, tiny_t5_tokenizer
from test_laion_clap import state_dict as laion_clap_state_dict
from tiny_pipeline import tiny_tokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig

from stable_longform import AutoencoderOobleck, LongFormMusicAudioToAudioPipeline, LongFormMusicPipeline
from stable_longform.cli import main

MAX_POSITIONS = 90


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny text encoders of the width that stable-audio-tools wants, with tokenizers."""
    folder = tmp_path_factory.mktemp("texts")
    text = {"vocab_size": 280, "hidden_size": 768, "num_hidden_layers": 2, "intermediate_size": 8}
    text |= {"max_position_embeddings": MAX_POSITIONS, "layer_norm_eps": 1e-5}
    audio = {"hidden_size": 32, "patch_embeds_hidden_size": 4, "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    config = ClapConfig(text_config=ClapTextConfig(**text).to_dict(), audio_config=ClapAudioConfig(**audio).to_dict())
    torch.manual_seed(0)
    for part in (ClapModel(config), tiny_tokenizer()):
        part.save_pretrained(folder / "clap")
    for part in (tiny_t5(768), tiny_t5_tokenizer()):
        part.save_pretrained(folder / "t5")
    return {case: folder / ("clap" if case == "stable_audio_2_0" else "t5") for case in CASES}


def write_checkpoint(folder: Path, case: str, weights: dict | None = None) -> Path:
    """A checkpoint with its configuration beside it."""
    folder.mkdir()
    save_file(state_dict(case) if weights is None else weights, folder / "model.safetensors")
    (folder / "model_config.json").write_text(json.dumps(model_config(case)))
    return folder / "model.safetensors"


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module", params=CASES)
def converted(request, texts, tmp_path_factory):
    """A case and its folder, made by the command."""
    folder = tmp_path_factory.mktemp("converted")
    checkpoint = write_checkpoint(folder / "theirs", request.param)
    options = ["-o", folder / "ours", "--text-encoder", texts[request.param]]
    assert main(["convert", str(checkpoint), *map(str, options)]) == 0
    return request.param, folder / "ours"


def test_a_converted_folder_makes_music(converted):
    case, folder = converted
    pipe = LongFormMusicPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.zero_text_padding == (case != "stable_audio_2_0")  # T5, not CLAP
    settings = [pipe.config[name] for name in ("prediction_type", "num_inference_steps", "guidance_scale")]
    is_distilled_flow = case == "stable_audio_open_small"
    assert settings == (["flow_prediction", 8, 1.0] if is_distilled_flow else ["v_prediction", 100, 7.0])
    assert type(pipe.scheduler).__name__.startswith("PingPong" if is_distilled_flow else "DPMSolver")
    assert pipe.transformer.config.sample_size == 48
    audio = pipe("solo piano", 0.05, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).audios[0]
    assert audio.shape == (2, 2205) and audio.isfinite().all() and audio.std() > 0.01
    audio = audio / audio.abs().max()  # weights of a formula make it louder than full scale
    transform = LongFormMusicAudioToAudioPipeline.from_pipe(pipe)
    transform.set_progress_bar_config(disable=True)
    edited = transform("drums", audio, method="edit", strength=0.001, num_inference_steps=2, guidance_scale=1.0)
    reconstruction = pipe.vae(torch.nn.functional.pad(audio, (0, 4096))[None]).sample[0, :, :2205]
    assert relative_error(edited.audios[0], reconstruction) < 0.05
    assert sorted(path.name for path in folder.parent.iterdir()) == ["ours", "theirs"]


def test_exported_back_everything_is_as_it_was(converted, tmp_path, capsys):
    case, folder = converted
    options = ["--checkpoint", folder, "--to", "stable-audio-tools", "-o", tmp_path / "out"]
    if case != "stable_audio_2_0":
        code, _, stderr = run(capsys, "export", *options)
        assert code == 2 and "only knows Google's T5 by name, and this one has 2 layers of width 768" in stderr
        return
    code, _, stderr = run(capsys, "export", *options)
    assert code == 2 and "text_encoder.vocab_size must be 50265 to be written as clap.ckpt, got 280" in stderr
    assert not (tmp_path / "out").exists()
    code, stdout, _ = run(capsys, "export", *options, "--no-text-encoder")
    assert (code, stdout) == (0, f"{tmp_path / 'out'}\n")
    written, expected = load_file(tmp_path / "out" / "model.safetensors"), state_dict(case)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)
    fields, original = json.loads((tmp_path / "out" / "model_config.json").read_text()), model_config(case)
    original["model"]["conditioning"]["configs"][0]["config"]["clap_ckpt_path"] = "clap.ckpt"
    assert fields == original


def test_a_training_checkpoint_gives_its_average(texts, tmp_path, capsys):
    weights = state_dict("stable_audio_2_0")
    training = {f"diffusion.{key}": tensor for key, tensor in weights.items()}
    bias = "model.to_timestep_embed.0.bias"
    training[f"diffusion.model.{bias}"] = torch.zeros(128)  # what is trained has moved on; the average has not
    average = {key: tensor for key, tensor in weights.items() if key.startswith("model.")}
    training |= {f"diffusion_ema.ema_model.{key[6:]}": tensor for key, tensor in average.items()}
    training["diffusion_ema.step"] = torch.tensor([7])
    checkpoint = write_checkpoint(tmp_path / "theirs", "stable_audio_2_0").with_name("training.ckpt")
    torch.save({"state_dict": training, "global_step": 7}, checkpoint)
    for option, expected in (("--ema", weights[f"model.{bias}"]), ("--no-ema", torch.zeros(128))):
        output = tmp_path / option
        options = ["-o", output, "--text-encoder", texts["stable_audio_2_0"], option]
        assert run(capsys, "convert", checkpoint, *options)[0] == 0
        pipe = LongFormMusicPipeline.from_pretrained(output)
        assert torch.equal(pipe.transformer.timestep_proj[0].bias, expected)


def test_an_autoencoder_alone_goes_both_ways(tmp_path, capsys):
    prefix, config = "pretransform.model.", model_config("stable_audio_2_0")
    full = state_dict("stable_audio_2_0")
    weights = {key.removeprefix(prefix): tensor for key, tensor in full.items() if key.startswith(prefix)}
    checkpoint = write_checkpoint(tmp_path / "theirs", "stable_audio_2_0", weights)
    fields = {"model_type": "autoencoder", "sample_size": 65536, "sample_rate": 44100, "audio_channels": 2}
    fields["model"] = config["model"]["pretransform"]["config"]
    (tmp_path / "vae.json").write_text(json.dumps(fields))
    assert run(capsys, "convert", checkpoint, "--config", tmp_path / "vae.json", "-o", tmp_path / "ours")[0] == 0
    assert AutoencoderOobleck.from_pretrained(tmp_path / "ours").hop_length == 64
    options = ["--checkpoint", tmp_path / "ours", "-o", tmp_path / "back", "--to"]
    assert run(capsys, "export", *options, "stable-audio-tools")[0] == 0
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert written.keys() == weights.keys() and all(torch.equal(written[key], weights[key]) for key in weights)
    shutil.rmtree(tmp_path / "back")
    code, _, stderr = run(capsys, "export", *options, "diffusers")
    assert code == 2 and "AutoencoderOobleck opens as it is" in stderr


def test_laion_clap_becomes_a_clap_model_and_is_verified(tmp_path, capsys):
    torch.save({"state_dict": laion_clap_state_dict("fused"), "epoch": 1}, tmp_path / "clap.pt")
    code, stdout, stderr = run(capsys, "convert", tmp_path / "clap.pt", "-o", tmp_path / "clap", "--verify")
    assert (code, stdout) == (0, f"{tmp_path / 'clap'}\n")
    assert ClapModel.from_pretrained(tmp_path / "clap").config.text_config.num_hidden_layers == 3
    name, value = stderr.strip().splitlines()[-1].rsplit(" ", 1)
    assert name == "text_model, next-to-last layer: largest relative difference" and float(value) < 1e-5


def test_export_to_diffusers_is_verified(tmp_path, capsys):
    stable_audio_pipeline(text_encoder_dim=7).save_pretrained(tmp_path / "theirs")
    LongFormMusicPipeline.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    options = ["--to", "diffusers", "--verify", "--checkpoint", tmp_path / "ours", "-o", tmp_path / "out"]
    code, stdout, stderr = run(capsys, "export", *options)
    assert (code, stdout) == (0, f"{tmp_path / 'out'}\n")
    lines = [line.split(": largest relative difference ") for line in stderr.splitlines() if "difference" in line]
    assert {name for name, _ in lines} == {
        "vae, encoded",
        "vae, decoded",
        "timing_conditioner",
        "text_encoder",
        "transformer",
    }
    assert all(float(value) < 1e-5 for _, value in lines)


def test_bad_input_ends_with_one_line_and_leaves_nothing(texts, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "theirs", "stable_audio_2_0")
    named_only = write_checkpoint(tmp_path / "with_t5", "total_only")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "bad.json").write_text("{")
    output, clap, t5 = tmp_path / "out", texts["stable_audio_2_0"], texts["total_only"]
    with_text = [checkpoint, "-o", output, "--text-encoder"]
    for arguments, message in (
        (["convert", checkpoint, "-o", tmp_path / "full"], "full exists and is not an empty folder: choose another"),
        (["convert", tmp_path / "none.ckpt", "-o", output], "none.ckpt"),
        (["convert", checkpoint, "-o", output], "clap_ckpt_path '/path/to/clap.ckpt' does not exist"),
        (["convert", named_only, "-o", output], "google-t5/t5-base cannot be loaded: give the text encoder"),
        (["convert", *with_text, clap, "--config", tmp_path / "bad.json"], "bad.json is not JSON"),
        (["convert", *with_text, clap, "--config", tmp_path / "none.json"], "There is no"),
        (["convert", *with_text, clap, "--ema"], "holds no moving average"),
        (["convert", *with_text, t5], "t5 is a t5, not a ClapModel"),
        (["export", "-o", output, "--to", "onnx"], "must be one of diffusers, stable-audio-tools, got 'onnx'"),
        (["export", "-o", output, "--to", "diffusers"], "text_encoder is 'ClapTextEncoder'"),
        (["export", "-o", output, "--to", "stable-audio-tools"], "cannot express mask_text_padding=True"),
    ):
        code, stdout, stderr = run(capsys, *arguments)
        assert (code, stdout) == (2, ""), arguments
        assert stderr.startswith("error: ") and stderr.count("\n") == 1 and message in stderr, stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "full", "theirs", "with_t5"]


@pytest.mark.skipif(importlib.util.find_spec("stable_audio_tools") is not None, reason="it is installed")
def test_verifying_without_the_other_tool_is_refused_before_the_work(texts, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "theirs", "stable_audio_2_0")
    code, _, stderr = run(capsys, "convert", checkpoint, "-o", tmp_path / "ours", "--verify")
    assert code == 2 and stderr == "error: Verifying needs stable-audio-tools, which is not installed.\n"
    assert not (tmp_path / "ours").exists()


@pytest.mark.skipif(importlib.util.find_spec("stable_audio_tools") is None, reason="needs stable-audio-tools")
@pytest.mark.parametrize("case", CASES)
def test_conversion_is_verified_by_the_real_tool(texts, tmp_path, capsys, case):
    checkpoint = write_checkpoint(tmp_path / "theirs", case)
    options = ["-o", tmp_path / "ours", "--text-encoder", texts[case], "--verify"]
    code, _, stderr = run(capsys, "convert", checkpoint, *options)
    lines = [line.split(": largest relative difference ") for line in stderr.splitlines() if "difference" in line]
    assert code == 0 and len(lines) == 5 and all(float(value) < 1e-5 for _, value in lines)
