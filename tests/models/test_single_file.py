"""Models from one file: ours, diffusers' and stable-audio-tools', and files that don't fit."""

import pytest
import torch
from common import assert_all_equal, randomize_weights, relative_error, run
from diffusers import AutoencoderOobleck as DiffusersAutoencoder
from safetensors.torch import load_file, save_file
from tiny_pipeline import tiny_transformer, tiny_vae

from stable_longform.convert.stable_audio_tools import to_stable_audio_tools
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D

WEIGHTS = "diffusion_pytorch_model.safetensors"


def inputs_of(model) -> dict:
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, AutoencoderOobleck):
        return {"sample": torch.randn(1, 2, 320, generator=generator)}
    return {
        "hidden_states": torch.randn(1, 4, 8, generator=generator),
        "timestep": torch.rand(1, generator=generator),
        "encoder_hidden_states": torch.randn(1, 3, 16, generator=generator),
        "global_hidden_states": torch.randn(1, 1, 32, generator=generator),
    }


@pytest.mark.parametrize("make", [tiny_vae, tiny_transformer])
def test_file_and_configuration_make_the_model(tmp_path, make):
    model = make().eval()
    model.save_pretrained(tmp_path / "sub")
    for config in (tmp_path / "sub", tmp_path / "sub" / "config.json", dict(model.config)):
        loaded = type(model).from_single_file(tmp_path / "sub" / WEIGHTS, config=config)
        assert not loaded.training and loaded.dtype == torch.float32
        assert_all_equal(run(loaded, inputs_of(model)), run(model, inputs_of(model)))
    half = type(model).from_single_file(
        load_file(tmp_path / "sub" / WEIGHTS), config=tmp_path, subfolder="sub", torch_dtype=torch.bfloat16
    )
    assert half.dtype == torch.bfloat16
    arguments = {name: value for name, value in model.config.items() if not name.startswith("_")}
    loaded = type(model).from_single_file(tmp_path / "sub" / WEIGHTS, **arguments)
    assert_all_equal(run(loaded, inputs_of(model)), run(model, inputs_of(model)))


def test_opens_diffusers_autoencoder(tmp_path):
    reference = DiffusersAutoencoder(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
    )
    randomize_weights(reference, std=0.1).eval().save_pretrained(tmp_path)
    ours = AutoencoderOobleck.from_single_file(tmp_path / WEIGHTS, config=tmp_path)
    latents = torch.randn(1, 4, 6)
    assert relative_error(ours.decode(latents).sample, reference.decode(latents).sample) < 1e-5


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = tiny_transformer()
    state_dict = model.state_dict()
    config = dict(model.config)
    with pytest.raises(ValueError, match=r"unknown transformer_blocks\.1\..* more\."):
        DiTTransformer1D.from_single_file(state_dict, config, num_layers=1)
    with pytest.raises(ValueError, match=r"missing transformer_blocks\.2\."):
        DiTTransformer1D.from_single_file(state_dict, config, num_layers=3)
    with pytest.raises(ValueError, match=r"proj_in\.weight has shape \(16, 4\) and not \(16, 8\)"):
        DiTTransformer1D.from_single_file(state_dict, config, patch_size=2)
    with pytest.raises(ValueError, match="DiTTransformer1D has no argument layers"):
        DiTTransformer1D.from_single_file(state_dict, config, layers=3)
    torch.save(state_dict, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"opens .safetensors files, got model\.ckpt"):
        DiTTransformer1D.from_single_file(tmp_path / "model.ckpt", config)
    with pytest.raises(ValueError, match="cannot be read"):
        DiTTransformer1D.from_single_file(tmp_path / "none.safetensors", config)
    save_file({"proj_in.weight": torch.zeros(16, 4)}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="missing time_proj.weight"):
        DiTTransformer1D.from_single_file(tmp_path / "part.safetensors", config)


@pytest.mark.parametrize("norm_bias", [False, True])
def test_names_of_stable_audio_tools_give_the_same_weights(tmp_path, norm_bias):
    vae, transformer = tiny_vae(), DiTTransformer1D.from_config({**tiny_transformer().config, "norm_bias": norm_bias})
    randomize_weights(transformer, std=0.1)
    theirs = to_stable_audio_tools(vae, transformer, TimingConditioner(16, internal_dim=8))
    save_file(theirs, tmp_path / "model.safetensors")
    for model in (vae, transformer):
        prefix = model.stable_audio_tools_prefix
        alone = {key.removeprefix(prefix): tensor for key, tensor in theirs.items() if key.startswith(prefix)}
        for source in (tmp_path / "model.safetensors", alone):
            loaded = type(model).from_single_file(source, model.config)
            assert loaded.state_dict().keys() == model.state_dict().keys()
            assert_all_equal(list(loaded.state_dict().values()), list(model.state_dict().values()))
        with pytest.raises(ValueError, match=f"unknown {prefix}more"):
            type(model).from_single_file({**theirs, f"{prefix}more": torch.zeros(1)}, model.config)
        del alone[next(key for key in alone if key.endswith(("encoder.layers.0.bias", "project_in.weight")))]
        with pytest.raises(ValueError, match="missing"):
            type(model).from_single_file(alone, model.config)
