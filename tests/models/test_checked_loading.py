"""A folder is opened only if its configuration and its weights belong to the class."""

import json
import logging

import pytest
import torch
from common import assert_all_equal
from diffusers import StableAudioProjectionModel
from safetensors.torch import load_file, save_file
from tiny_pipeline import tiny_text_encoder, tiny_transformer, tiny_vae

from stable_longform.models.checked_loading import (
    check_booleans,
    check_integer_lists,
    check_integers,
    check_numbers,
)
from stable_longform.models.discriminator_stft import MultiScaleSTFTDiscriminator
from stable_longform.models.timing_conditioner import TimingConditioner

WEIGHTS = "diffusion_pytorch_model.safetensors"


def tiny_timing_conditioner():
    return TimingConditioner(16, internal_dim=8, text_encoder_dim=24)


def tiny_discriminator():
    return MultiScaleSTFTDiscriminator(filters=2, fft_sizes=[32, 16])


MODELS = (tiny_vae, tiny_transformer, tiny_text_encoder, tiny_timing_conditioner, tiny_discriminator)


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def saved(request, tmp_path):
    """A model, and its folder inside of another."""
    model = request.param()
    model.save_pretrained(tmp_path / "part")
    return model, tmp_path / "part"


def open_folder(saved):
    """As a pipeline does it."""
    model, folder = saved
    return type(model).from_pretrained(folder.parent, subfolder=folder.name)


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def test_opens_in_float32_whatever_the_default(saved):
    model = saved[0]
    torch.set_default_dtype(torch.float64)
    try:
        loaded = open_folder(saved)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert_all_equal(list(loaded.state_dict().values()), list(model.state_dict().values()))
    assert {tensor.dtype for tensor in loaded.buffers() if tensor.is_floating_point()} <= {torch.float32}
    half = type(model).from_pretrained(saved[1], torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    again, info = type(model).from_pretrained(saved[1], output_loading_info=True)
    assert info["missing_keys"] == [] and again.config.keys() == loaded.config.keys()


def test_a_saved_model_does_not_say_where_it_lay(saved, tmp_path):
    loaded = open_folder(saved)
    assert str(loaded.config["_name_or_path"]) == str(tmp_path)  # as in diffusers, in memory
    loaded.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()
    assert (tmp_path / "again" / "config.json").read_text() == (saved[1] / "config.json").read_text()


def test_missing_unknown_and_wrong_tensors(saved):
    first = next(iter(saved[0].state_dict()))
    change_weights(saved[1], lambda weights: weights.pop(first))
    with pytest.raises(ValueError, match=rf"weights in .*part don't fit .*: missing {first}\."):
        open_folder(saved)
    change_weights(saved[1], lambda weights: weights.update({first: torch.zeros(3, 5, 7)}))
    with pytest.raises(ValueError, match=rf"part.*{first}"):
        open_folder(saved)
    saved[0].save_pretrained(saved[1])
    change_weights(saved[1], lambda weights: weights.update({"more": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"part don't fit .*: unexpected more\."):
        open_folder(saved)


def test_other_classes(saved):
    change_config(saved[1], _class_name="AutoencoderKL")
    with pytest.raises(ValueError, match=r"part/config.json: _class_name must be .*, got 'AutoencoderKL'"):
        open_folder(saved)
    change_config(saved[1], _class_name=["a"])
    with pytest.raises(ValueError, match=r"part/config.json: _class_name must be"):
        open_folder(saved)


@pytest.mark.parametrize("value", [None, -1, 10**12, "7", 1.5, True, [], {}, float("nan")], ids=str)
def test_every_field_is_checked(saved, value):
    """Whatever is written into a field, it is named, or it is a value that the field may have."""
    model, folder = saved
    names = [name for name in model.config if not name.startswith("_")]
    for name in names:
        change_config(folder, **{name: value})
        try:
            loaded = open_folder(saved)
        except ValueError as error:
            assert "part" in str(error) and (name in str(error) or "don't fit" in str(error))
        else:
            assert loaded.config[name] == value
            assert isinstance(model.config[name], type(value)) or value is None or name in ("min_value", "max_value")
        change_config(folder, **{name: model.config[name]})


@pytest.mark.parametrize("value", [None, -1, 0, 10**12])
@pytest.mark.parametrize(
    "make, name",
    [
        (tiny_transformer, "num_layers"),
        (tiny_transformer, "sample_size"),
        (tiny_vae, "sampling_rate"),
        (tiny_vae, "encoder_hidden_size"),
        (tiny_discriminator, "filters"),
        (tiny_text_encoder, "vocab_size"),
        (tiny_timing_conditioner, "conditioning_dim"),
    ],
)
def test_sizes(tmp_path, make, name, value):
    make().save_pretrained(tmp_path)
    change_config(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=rf"config.json: {name} must be an integer in \[1, \d+\], got {value}"):
        type(make()).from_pretrained(tmp_path)


def test_diffusers_projection_model_is_a_timing_conditioner(tmp_path):
    StableAudioProjectionModel(24, 16, 0, 512).save_pretrained(tmp_path)
    loaded = TimingConditioner.from_pretrained(tmp_path)
    assert loaded.config.text_encoder_dim == 24 and loaded.text_projection.weight.shape == (16, 24)


def test_a_change_of_precision_is_no_warning():
    logger = logging.getLogger("diffusers.models.modeling_utils")
    records, handler = [], logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        tiny_vae().to(torch.bfloat16)
    finally:
        logger.removeHandler(handler)
    assert not records


def test_checks_of_fields():
    config = {"size": 3, "sizes": [1, 2], "rate": 0.5, "flag": True, "text": "3", "nothing": None}
    check_integers(config, "size", high=3)
    check_integer_lists(config, "sizes", high=2)
    check_numbers(config, "rate", "size", low=0.5, high=3)
    check_booleans(config, "flag")
    for name in ("rate", "flag", "text", "nothing", "sizes"):
        with pytest.raises(ValueError, match=rf"{name} must be an integer in \[1, 65536\], got "):
            check_integers(config, name)
    with pytest.raises(ValueError, match=r"sizes must be a list of integers in \[2, 65536\], got \[1, 2\]"):
        check_integer_lists(config, "sizes", low=2)
    for name in ("size", "text", "nothing"):
        with pytest.raises(ValueError, match=f"{name} must be a list of integers"):
            check_integer_lists(config, name)
    for name in ("flag", "text", "nothing", "sizes"):
        with pytest.raises(ValueError, match=rf"{name} must be a number in \[0, 1\], got "):
            check_numbers(config, name, low=0, high=1)
    with pytest.raises(ValueError, match="must be a number"):
        check_numbers({"rate": float("nan")}, "rate", low=0, high=1)
    for name in ("size", "text", "nothing"):
        with pytest.raises(ValueError, match=f"{name} must be true or false"):
            check_booleans(config, name)
