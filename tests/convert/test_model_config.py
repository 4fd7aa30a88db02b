"""stable-audio-tools' configuration files: what each says in our terms, and the fields that cannot be said."""

import copy
import inspect

import pytest
import torch
from golden import CASES, model_config

from stable_longform import AutoencoderOobleck, DiTTransformer1D, TimingConditioner
from stable_longform.convert.model_config import (
    ModelConfig,
    read_model_config,
    write_autoencoder_config,
    write_model_config,
)

CLAP_SETTINGS = {"use_text_features": True, "feature_layer_ix": -2, "clap_ckpt_path": "clap.ckpt"}


def change(config: dict, path: str, value) -> dict:
    """The configuration with the field at a dotted path set; sections that are missing are made."""
    *sections, name = path.split(".")
    section = config
    for part in sections:
        section = section[int(part)] if part.isdigit() else section.setdefault(part, {})
    section[name] = value
    return config


def paper_config() -> dict:
    """The configuration of the paper's model: the scaled-down one with its own sizes."""
    config = model_config("stable_audio_2_0")
    common = {"c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8], "channels": 128}
    autoencoder = config["model"]["pretransform"]["config"]
    autoencoder["encoder"]["config"] |= common | {"latent_dim": 128}
    autoencoder["decoder"]["config"] |= common | {"latent_dim": 64}
    autoencoder |= {"latent_dim": 64, "downsampling_ratio": 2048}
    config["model"]["conditioning"]["cond_dim"] = 768
    config["model"]["diffusion"]["config"] |= {"io_channels": 64, "embed_dim": 1536, "depth": 24, "num_heads": 24}
    config["model"]["diffusion"]["config"] |= {"cond_token_dim": 768, "global_cond_dim": 1536}
    config["model"]["io_channels"] = 64
    return config | {"sample_size": 12582912}


def defaults(model_class: type) -> dict:
    parameters = inspect.signature(model_class.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def as_lists(arguments: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}


def test_the_papers_configuration_is_our_defaults():
    config = read_model_config(paper_config())
    assert config.autoencoder == as_lists(defaults(AutoencoderOobleck))
    assert config.transformer == defaults(DiTTransformer1D)
    assert config.timing == defaults(TimingConditioner) | {"text_encoder_dim": 768}
    assert config.text["type"] == "clap_text" and config.text["feature_layer"] == -2


def test_stable_audio_open_differs_in_text_and_window():
    paper, fields = read_model_config(paper_config()), paper_config()
    fields["model"]["conditioning"]["configs"][0] |= {"type": "t5", "config": {"t5_model_name": "t5-base"}}
    config = read_model_config(fields | {"sample_size": 2097152})
    assert config.transformer == paper.transformer | {"sample_size": 1024}
    assert (config.autoencoder, config.timing) == (paper.autoencoder, paper.timing)
    assert config.text == {"id": "prompt", "type": "t5", "name": "t5-base", "width": 768, "max_length": 128}


@pytest.mark.parametrize("case", CASES)
def test_written_and_read_again_a_configuration_is_the_same(case):
    original = model_config(case)
    config = read_model_config(original)
    with torch.device("meta"):
        models = (
            AutoencoderOobleck(**config.autoencoder),
            DiTTransformer1D(**config.transformer),
            TimingConditioner(**config.timing),
        )
    prompt = original["model"]["conditioning"]["configs"][0]
    text = {"type": prompt["type"], "config": prompt["config"], "width": config.text["width"]}
    written = write_model_config(*models, text, config.objective)
    assert read_model_config(written) == config
    alone = read_model_config(write_autoencoder_config(models[0]))
    assert alone == ModelConfig(config.autoencoder)


DIT, ENCODER = "model.diffusion.config.", "model.pretransform.config.encoder.config."
DECODER = "model.pretransform.config.decoder.config."


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model_type", "diffusion_cond_inpaint", "model_type is 'diffusion_cond_inpaint'; it can only be"),
        ("sample_size", 12345, "sample_size must be a multiple of the autoencoder's 64, got 12345"),
        ("sample_rate", "44100", "sample_rate must be a positive integer, got '44100'"),
        ("latent_scale", 2.0, "Unknown fields, which may change what the model computes: latent_scale"),
        ("model.pretransform.scale", 0.5, "model.pretransform.scale is 0.5"),
        ("model.pretransform.config.bottleneck.type", "tanh", "model.pretransform.config.bottleneck.type is 'tanh'"),
        ("model.pretransform.config.encoder.type", "dac", "model.pretransform.config.encoder.type is 'dac'"),
        (ENCODER + "use_snake", False, ENCODER + "use_snake is False"),
        (ENCODER + "strides", [2, 3, 8], "strides must be even"),
        (ENCODER + "strides", 4, "strides must be a list of positive integers, got 4"),
        (ENCODER + "c_mults", [1, 2, 4], "must have the c_mults and strides of the encoder"),
        (DECODER + "final_tanh", True, DECODER + "final_tanh is True"),
        (DECODER + "dilations", [1], f"Unknown fields, which may change what the model computes: {DECODER}dilations"),
        ("model.diffusion.diffusion_objective", "consistency", "model.diffusion.diffusion_objective is 'consistency'"),
        ("model.diffusion.global_cond_ids", ["seconds_total"], r"global_cond_ids is \['seconds_total'\]"),
        (DIT + "global_cond_type", "adaLN", DIT + "global_cond_type is 'adaLN'"),
        (DIT + "attn_kwargs", {"qk_norm": "l2"}, DIT + "attn_kwargs.qk_norm is 'l2'"),
        (DIT + "num_memory_tokens", 16, DIT + "num_memory_tokens is 16"),
        (DIT + "norm_kwargs", {"eps": 1e-2}, DIT + "norm_kwargs.eps is 0.01"),
        (DIT + "embed_dim", 64, "embed_dim / num_heads must be a multiple of 4 and at least 64"),
        (DIT + "use_kan", True, f"Unknown fields, which may change what the model computes: {DIT}use_kan"),
        ("model.conditioning.configs.1.type", "int", "'seconds_start' of type 'int' cannot be represented"),
        ("model.conditioning.configs.1.config.max_val", 300, "must have the same range"),
        ("model.conditioning.configs.0.config.use_text_features", False, "use_text_features is False"),
        ("model.conditioning.configs.0.config.finetune", True, "finetune is True"),
        ("model.conditioning", None, "model.conditioning must be an object, got None"),
    ],
)
def test_what_cannot_be_said_is_named(path, value, message):
    config = change(model_config("stable_audio_2_0"), path, value)
    with pytest.raises(ValueError, match=message):
        read_model_config(config)


def test_fields_that_change_no_result_are_ignored():
    original, config = model_config("stable_audio_2_0"), model_config("stable_audio_2_0")
    for path, value in (
        ("training", {"use_ema": True}),
        ("model.pretransform.chunked", True),
        (DIT + "zero_init_branch_outputs", False),
        (DIT + "norm_kwargs", {"force_fp32": True}),
        ("model.diffusion.distribution_shift_options", {"min_length": 1}),
    ):
        config = change(config, path, value)
    assert read_model_config(config) == read_model_config(original)


@pytest.mark.parametrize(
    "component, changes, message",
    [
        ("transformer", {"time_proj_dim": 128}, "transformer.time_proj_dim cannot be represented"),
        (
            "transformer",
            {"num_attention_heads": 4, "attention_head_dim": 32, "num_key_value_attention_heads": 2},
            "attention_head_dim must be at least 64",
        ),
        ("transformer", {"cross_attention_dim": 192, "num_key_value_attention_heads": 1}, "key_value_attention_heads"),
        ("timing", {"internal_dim": 128}, "timing_conditioner.internal_dim cannot be represented"),
        ("timing", {"text_encoder_dim": 512}, "timing_conditioner.text_encoder_dim cannot be represented"),
        ("autoencoder", {"downsampling_ratios": [2, 3, 8]}, "vae.downsampling_ratios must be even"),
    ],
)
def test_what_theirs_cannot_say_is_named(component, changes, message):
    config = read_model_config(model_config("stable_audio_2_0"))
    arguments = {name: copy.deepcopy(getattr(config, name)) for name in ("autoencoder", "transformer", "timing")}
    arguments[component] |= changes
    with torch.device("meta"):
        models = (
            AutoencoderOobleck(**arguments["autoencoder"]),
            DiTTransformer1D(**arguments["transformer"]),
            TimingConditioner(**arguments["timing"]),
        )
    with pytest.raises(ValueError, match=message):
        write_model_config(*models, {"type": "clap_text", "config": CLAP_SETTINGS, "width": 768})
