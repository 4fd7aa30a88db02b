"""Rules between two naming schemes: complete, without doubles, and of the paper's number of tensors."""

import pytest
import torch

from stable_longform import AutoencoderOobleck, DiTTransformer1D, TimingConditioner
from stable_longform.models.stable_audio_tools_keys import autoencoder_keys, timing_keys, transformer_keys

FREQUENCIES = "transformer.rotary_pos_emb.inv_freq"


@pytest.fixture(scope="module")
def paper():
    """The paper's models without numbers, and their keys."""
    with torch.device("meta"):
        models = AutoencoderOobleck(), DiTTransformer1D(), TimingConditioner(text_encoder_dim=512)
    functions = autoencoder_keys, transformer_keys, timing_keys
    return [(model, keys(model.config)) for model, keys in zip(models, functions, strict=True)]


def test_every_tensor_of_ours_is_in_one_rule_and_no_key_of_theirs_twice(paper):
    for model, key_map in paper:
        ours = [key for rule in key_map.rules for key in rule.ours]
        assert sorted(ours) == sorted(model.state_dict())
        theirs = [rule.theirs for rule in key_map.rules] + list(key_map.constants)
        assert len(set(theirs)) == len(theirs)
    assert len(paper[0][1].rules) == 365  # tensors of the published autoencoder


def test_fused_projections_have_the_published_shapes(paper):
    model, key_map = paper[1]
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    found = {rule.theirs: tuple(rule.shape_of_theirs(shapes)) for rule in key_map.rules}
    assert found["timestep_features.weight"] == (128, 1)
    assert found["transformer.layers.23.self_attn.to_qkv.weight"] == (4608, 1536)
    assert found["transformer.layers.23.cross_attn.to_kv.weight"] == (1536, 768)
    assert found["transformer.layers.0.ff.ff.0.proj.weight"] == (12288, 1536)


def test_constants_of_the_transformer():
    """Rotary frequencies of half of each head, and zeros for the norm biases that ours does not have."""
    config = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 64}
    config |= {"norm_bias": False, "qk_norm": False}
    constants = transformer_keys(config, "a.").constants
    frequencies = constants.pop(f"a.{FREQUENCIES}")
    torch.testing.assert_close(frequencies, 10000 ** (-torch.arange(16) / 16), rtol=1e-5, atol=0)
    assert {key.removeprefix("a.transformer.layers.0.") for key in constants} == {
        "pre_norm.beta",
        "cross_attend_norm.beta",
        "ff_norm.beta",
    }
    assert all(torch.equal(value, torch.zeros(128)) for value in constants.values())
    assert list(transformer_keys(config | {"norm_bias": True}).constants) == [FREQUENCIES]
