"""Rules between two naming schemes: complete, without doubles, and of the paper's number of tensors."""

import pytest
import torch

from stable_longform import AutoencoderOobleck, DiTTransformer1D, TimingConditioner
from stable_longform.utils.key_maps import (
    Rule,
    autoencoder_rules,
    check_constants,
    timing_rules,
    to_ours,
    to_theirs,
    transformer_constants,
    transformer_rules,
)

NUMBERS = {"start_number_conditioner": "seconds_start", "end_number_conditioner": "seconds_total"}


@pytest.fixture(scope="module")
def paper():
    """The paper's model without numbers, and its rules."""
    with torch.device("meta"):
        models = AutoencoderOobleck(), DiTTransformer1D(), TimingConditioner(text_encoder_dim=512)
    return list(
        zip(
            models, (autoencoder_rules(5), transformer_rules(24, False), timing_rules(NUMBERS, "prompt")), strict=False
        )
    )


def test_every_tensor_of_ours_is_in_one_rule_and_no_key_of_theirs_twice(paper):
    for model, rules in paper:
        ours = [key for rule in rules for key in rule.ours]
        assert sorted(ours) == sorted(model.state_dict())
        theirs = [rule.theirs for rule in rules]
        assert len(set(theirs)) == len(theirs)
    assert len(paper[0][1]) == 365  # tensors of the published autoencoder


def test_fused_projections_have_the_published_shapes(paper):
    shapes = {key: tensor.shape for key, tensor in paper[1][0].state_dict().items()}
    found = {rule.theirs: tuple(rule.shape_of_theirs(shapes)) for rule in paper[1][1]}
    assert found["timestep_features.weight"] == (128, 1)
    assert found["transformer.layers.23.self_attn.to_qkv.weight"] == (4608, 1536)
    assert found["transformer.layers.23.cross_attn.to_kv.weight"] == (1536, 768)
    assert found["transformer.layers.0.ff.ff.0.proj.weight"] == (12288, 1536)


def test_there_and_back_is_the_identity():
    rules = [Rule("a", ("x", "y")), Rule("b", ("z",), "flat"), Rule("c", ("w",), "column"), Rule("d", ("v",))]
    ours = {"x": torch.randn(2, 3), "y": torch.randn(4, 3), "z": torch.randn(1, 5, 1), "w": torch.randn(6)}
    ours["v"] = torch.tensor(7.0)
    theirs = to_theirs(rules, ours)
    assert {key: tuple(tensor.shape) for key, tensor in theirs.items()} == {
        "a": (6, 3),
        "b": (5,),
        "c": (6, 1),
        "d": (),
    }
    assert torch.equal(theirs["a"], torch.cat([ours["x"], ours["y"]]))
    back, problems = to_ours(rules, theirs, {key: tensor.shape for key, tensor in ours.items()})
    assert problems == [] and back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_constants_may_be_missing_or_rounded_but_not_other():
    constants = transformer_constants(1, 8, 64, norm_bias=False)
    assert len(constants) == 4 and constants["transformer.rotary_pos_emb.inv_freq"].shape == (16,)
    torch.testing.assert_close(
        constants["transformer.rotary_pos_emb.inv_freq"], 10000 ** (-torch.arange(16) / 16), rtol=1e-5, atol=0
    )
    assert check_constants(constants, {}) == []
    assert check_constants(constants, {key: tensor.bfloat16() for key, tensor in constants.items()}) == []
    wrong = {"transformer.rotary_pos_emb.inv_freq": constants["transformer.rotary_pos_emb.inv_freq"] / 2}
    assert check_constants(constants, wrong) == [
        "transformer.rotary_pos_emb.inv_freq holds values that our architecture does not have"
    ]
    assert len(transformer_constants(1, 8, 64, norm_bias=True)) == 1
