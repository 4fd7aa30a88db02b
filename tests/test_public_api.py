"""The public names, and the module paths that checkpoints hold."""

import ast
import importlib.metadata
from pathlib import Path

import pytest

import stable_longform

# `save_pretrained` stores these paths in model_index.json: a class that moves makes saved checkpoints unreadable.
MODULES = {
    "LongFormMusicPipeline": "stable_longform.pipelines.pipeline_longform_music",
    "LongFormMusicAudioToAudioPipeline": "stable_longform.pipelines.pipeline_longform_music_audio_to_audio",
    "LongFormMusicInpaintPipeline": "stable_longform.pipelines.pipeline_longform_music_inpaint",
    "AutoencoderOobleck": "stable_longform.models.autoencoder_oobleck",
    "ClapTextEncoder": "stable_longform.models.clap_text_encoder",
    "DiTTransformer1D": "stable_longform.models.transformer_dit_1d",
    "TimingConditioner": "stable_longform.models.timing_conditioner",
    "convert_checkpoint": "stable_longform.convert.commands",
    "export_checkpoint": "stable_longform.convert.commands",
}


@pytest.mark.parametrize("name", MODULES)
def test_class_is_public_and_stays_in_its_module(name):
    cls = getattr(stable_longform, name)
    assert (cls.__name__, cls.__module__) == (name, MODULES[name])


def test_public_names_are_listed():
    assert set(stable_longform.__all__) == {*MODULES, "TINY_CHECKPOINT", "TINY_8_STEPS_LORA"}
    assert set(stable_longform.__all__) <= set(dir(stable_longform))
    assert isinstance(stable_longform.TINY_CHECKPOINT, str)


def test_type_checkers_see_the_public_names():
    stub = ast.parse(Path(stable_longform.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imported = {
        alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == MODULES
    assert (Path(stable_longform.__file__).parent / "py.typed").is_file()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'LongFormPipeline'"):
        _ = stable_longform.LongFormPipeline


def test_version_and_command_are_the_installed_packages():
    distribution = importlib.metadata.distribution("stable_longform")
    assert distribution.version == stable_longform.__version__
    commands = {entry.name: entry.value for entry in distribution.entry_points if entry.group == "console_scripts"}
    assert commands == {"stable-longform": "stable_longform.cli:main"}
