"""Options: models as their arguments, and the scripts' own options, each of which has a range and a meaning."""

import dataclasses
import importlib.util
import math
import re
import typing
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import torch
from launch import ROOT

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.config import load_config
from stable_longform.training_utils.options import ArgumentsOf, FieldsOf, Option, build_model, options_of
from stable_longform.utils.ranges import Range

SCRIPTS = [
    file.stem for file in sorted((ROOT / "training").glob("*.py")) if "launch(main, Config)" in file.read_text()
]


@dataclass(frozen=True)
class Config:
    model: Annotated[dict, ArgumentsOf(AutoencoderOobleck), "An autoencoder."] = field(default_factory=dict)


def config_of(script: str) -> type:
    """The configuration of a training script."""
    spec = importlib.util.spec_from_file_location(f"training_{script}", ROOT / "training" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Config


def all_options(config_class: type) -> list[Option]:
    """The options of a configuration, and those within its mappings as `name.entry`."""
    options = []
    for option in options_of(config_class).values():
        options.append(option)
        fields = option._mark(FieldsOf)
        entries = options_of(fields.settings_class) if fields else {}
        options += [dataclasses.replace(entry, name=f"{option.name}.{name}") for name, entry in entries.items()]
    return options


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bais": True}, "Unknown entries of model: bais; known: in_features, out_features, bias, device, dtype"),
        ({"in_features": "four"}, "model has a value of the wrong type"),
        ({}, "model has a value of the wrong type: .*in_features"),
    ],
)
def test_models_are_built_from_known_arguments(arguments, message):
    assert build_model(torch.nn.Linear, {"in_features": 3, "out_features": 2}, "model").in_features == 3
    with pytest.raises(ValueError, match=message):
        build_model(torch.nn.Linear, {"out_features": 2} | arguments, "model")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--model.encoder_hidden_size=0", "model.encoder_hidden_size must be an integer in .*, got 0"),
        ("--model.channel_multiples=[1, -2]", "model.channel_multiples must be a list of integers .*, got"),
        ("--model.widht=3", "Unknown entries of model: widht; known: encoder_hidden_size"),
        ("--model.audio_channels=two", "model.audio_channels must be an integer in .*, got 'two'"),
    ],
)
def test_arguments_of_a_model_are_checked_with_the_configuration(argument, message):
    assert load_config(Config, ["--model.decoder_channels=8"]).model == {"decoder_channels": 8}
    with pytest.raises(ValueError, match=message):
        load_config(Config, [argument])


@pytest.mark.parametrize(
    "argument, message",
    [
        ("audio_config.depths=[2, 0]", "audio_config.depths must be a list of whole numbers in [1, 1000], at least 1"),
        ("audio_config.depths=two", "got 'two'"),
        ("audio_config.enable_fusion=1", "audio_config.enable_fusion must be true or false, got 1"),
        ("audio_config.fusion_type=none", "audio_config.fusion_type must be one of aff_2d, got 'none'"),
        ("audio_config.hidden_size=8", "Unknown entries of audio_config: hidden_size; known: spec_size, num_mel_bins"),
        ("audio_config=[1]", "audio_config must be a mapping of spec_size, num_mel_bins, window_size"),
        ("text_config.hidden_dropout_prob=1", "text_config.hidden_dropout_prob must be a number in [0, 1), got 1"),
        ("text_config.max_position_embeddings=78", "must be a whole number in [79, 65536], got 78"),
        ("text_config={hidden_size: null}", "text_config.hidden_size must be a whole number in [1, 65536], got None"),
        ("feature_extractor.max_length_s=1.5", "feature_extractor.max_length_s must be a whole number in [1, 10000]"),
        ("feature_extractor.padding=no", "must be one of repeatpad, repeat, pad, got 'no'"),
    ],
)
def test_entries_of_a_mapping_are_checked_like_options(argument, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(config_of("train_clap"), ["--manifest=m", "--output_dir=o", f"--{argument}"])


def test_the_scripts_with_a_configuration():
    assert set(SCRIPTS) >= {"train_autoencoder", "train_clap", "train_dit", "train_dit_lora", "encode_latents"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_has_a_meaning_and_every_number_a_range(script):
    options = all_options(config_of(script))
    assert [option.name for option in options if not option.meaning.endswith(".")] == []
    for option in options:
        kinds = {option.hint, *typing.get_args(option.hint)}
        if kinds & {int, float}:
            assert option._mark(Range) is not None, option.name
        if not option.is_required and option.hint is not dict:  # defaults are in their own ranges
            assert option.convert(option.default) == option.default
    with pytest.raises(ValueError, match="Missing configuration"):
        load_config(config_of(script), [])


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_number_out_of_its_range_is_one_line_with_name_value_and_range(script):
    config_class = config_of(script)
    required = [f"--{name}=x" for name, option in options_of(config_class).items() if option.is_required]
    for option in all_options(config_class):
        accepted = option._mark(Range)
        if accepted is None or option.hint is dict:
            continue
        bad = [math.nan, math.inf, -math.inf, accepted.low - 1, True, "high", [[]]]
        bad += [accepted.low] if accepted.above else []
        bad += [accepted.high] if accepted.below else [accepted.high + 1] if accepted.high < 2**52 else []
        for value in bad:
            text = value if isinstance(value, str) else str(value).replace("inf", ".inf").replace("nan", ".nan")
            text = f"[{text}, {text}]" if typing.get_origin(option.hint) is tuple else text
            with pytest.raises(ValueError) as caught:
                load_config(config_class, [*required, f"--{option.name}={text}"])
            message = str(caught.value)
            assert message.startswith(f"{option.name} must be {option.accepted}, got ") and "\n" not in message
