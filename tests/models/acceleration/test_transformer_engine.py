"""Large linear maps and long attention go to the faster kernels, all others are left alone."""

import pytest
import torch
import torch.nn.functional as F
from common import relative_error
from diffusers.models.attention_dispatch import attention_backend
from tiny_pipeline import tiny_transformer
from torch import nn

from stable_longform.models.acceleration import onednn, row_attention
from stable_longform.models.acceleration.engine import engine_for
from stable_longform.models.acceleration.transformer_engine import TransformerEngine

CPU = torch.device("cpu")
ONEDNN = "mkldnn::_linear_pointwise"
needs_onednn = pytest.mark.skipif(not onednn.IS_AVAILABLE, reason="torch was built without oneDNN")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 1)


def operations(function, *args):
    """The result, and the names of the operations that made it."""
    with torch.profiler.profile() as profile:
        result = function(*args)
    return result, {event.key for event in profile.key_averages()}


@needs_onednn
@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_large_linear_maps_run_in_onednn_and_are_the_same(bias):
    torch.manual_seed(0)
    linear = nn.Linear(12, 7, bias=bias)
    hidden_states = torch.randn(2, 5, 12)
    expected, names = operations(linear, hidden_states)
    assert ONEDNN not in names
    with TransformerEngine(linear):
        output, names = operations(linear, hidden_states)
    assert ONEDNN in names
    assert output.shape == expected.shape and relative_error(output, expected) < 1e-6


@torch.no_grad()
def test_other_linear_maps_are_left_alone(monkeypatch):
    linear, hidden_states = nn.Linear(12, 7), torch.randn(2, 5, 12)

    def names_of(linear, hidden_states):
        with TransformerEngine(nn.Linear(1, 1)):
            return operations(linear, hidden_states)[1]

    assert ONEDNN not in names_of(nn.Linear(12, 7).bfloat16(), hidden_states.bfloat16())
    assert ONEDNN not in names_of(nn.Linear(12, 7).double(), hidden_states.double())
    assert ONEDNN not in names_of(lambda x: F.linear(x, weight=linear.weight), hidden_states)
    monkeypatch.setattr(onednn, "MIN_PRODUCTS", 2 * 5 * 12 * 7 + 1)
    assert ONEDNN not in names_of(linear, hidden_states)


def make_inputs(length=12):
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 4, length, generator=generator),
        "timestep": torch.rand(2, generator=generator),
        "encoder_hidden_states": torch.randn(2, 3, 16, generator=generator),
        "global_hidden_states": torch.randn(2, 1, 32, generator=generator),
    }


@needs_onednn
@torch.no_grad()
def test_a_transformer_uses_it_by_itself():
    model, inputs = tiny_transformer().eval(), make_inputs()
    output, names = operations(lambda: model(**inputs).sample)
    assert ONEDNN in names
    with torch.enable_grad():
        expected, names = operations(lambda: model(**inputs).sample)
    assert ONEDNN not in names
    assert relative_error(output, expected) < 1e-5


@torch.no_grad()
def test_rows_serve_long_sequences_in_bfloat16_only(monkeypatch):
    calls = []

    def attend(query, key, value):
        calls.append(query.shape[2])
        return attend_by_rows(query, key, value)

    attend_by_rows = row_attention.attend_by_rows
    monkeypatch.setattr(row_attention, "attend_by_rows", attend)
    monkeypatch.setattr(row_attention, "MIN_KEYS", 13)
    model, inputs = tiny_transformer().eval(), make_inputs()
    half = {name: value if name == "timestep" else value.bfloat16() for name, value in inputs.items()}
    expected = model(**inputs).sample
    assert not calls
    model.bfloat16()
    assert relative_error(model(**half).sample, expected) < 0.04
    num_layers = len(model.transformer_blocks)
    assert calls == [13] * num_layers  # a global token and twelve frames attend to themselves; the text is short
    with torch.enable_grad():
        model(**half)
    with attention_backend("_native_math"):
        model(**half)
    with attention_backend("native"):  # `set_attention_backend` changes all other models too
        model.set_attention_backend("_native_math")
        model(**half)
    model.reset_attention_backend()
    model(**half, attention_mask=torch.ones(2, 12, dtype=torch.bool))
    assert len(calls) == num_layers
    monkeypatch.setattr(row_attention, "MIN_KEYS", 14)
    model(**half)
    assert len(calls) == num_layers


@torch.no_grad()
def test_where_there_is_an_engine(monkeypatch):
    model = tiny_transformer().eval()
    assert isinstance(engine_for(model, CPU), TransformerEngine)
    for device in ("meta", "cuda", "mps"):
        assert engine_for(model, torch.device(device)) is None
    with torch.enable_grad():
        assert engine_for(model, CPU) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert engine_for(model, CPU) is None
    assert engine_for(model.train(), CPU) is None
    model.eval().transformer_blocks[0].compile(backend="eager")
    assert engine_for(model, CPU) is None
