"""LAION-CLAP checkpoints: what the real LAION-CLAP computed, transformers' ClapModel computes."""

import json
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from common import relative_error
from formula_weights import formula_tensor, formula_weights
from make_golden_laion_clap import GOLDEN, IDS, LONGER, MASK
from safetensors import safe_open

from stable_longform import ClapTextEncoder
from stable_longform.convert.laion_clap import from_laion_clap, is_laion_clap, text_branch_to_laion_clap

TOLERANCE = 1e-5
CASES = ("fused", "plain")


@cache
def golden(name: str) -> torch.Tensor:
    with safe_open(GOLDEN, "pt") as file:
        return file.get_tensor(name)


def state_dict(case: str, prefix: str = "module.") -> dict[str, torch.Tensor]:
    """The checkpoint whose outputs are golden, with some of the tensors that are not taken over."""
    with safe_open(GOLDEN, "pt") as file:
        shapes = json.loads(file.metadata()[case])
    weights = formula_weights(shapes)
    for key in weights:
        if key.endswith("relative_position_index"):
            weights[key] = golden("relative_position_index")
        elif key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(3)
    weights["audio_branch.logmel_extractor.melW"] = torch.zeros(2, 2)
    weights["audio_branch.layers.0.blocks.1.attn_mask"] = torch.zeros(2, 2)
    return {prefix + key: tensor for key, tensor in weights.items()}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_embeddings_agree_with_the_real_tool(case):
    weights = state_dict(case)
    assert is_laion_clap(weights)
    model = from_laion_clap(weights)
    assert not model.training and model.config.audio_config.enable_fusion == (case == "fused")
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    text = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    assert relative_error(text, F.normalize(golden(f"{case}/text"), dim=-1)) < TOLERANCE
    mel = formula_tensor("mel", (2, 4, 1001, 64))
    mel, longer = (mel, torch.tensor(LONGER)) if case == "fused" else (mel[:, :1], None)
    audio = model.get_audio_features(input_features=mel, is_longer=longer).pooler_output
    assert relative_error(audio, F.normalize(golden(f"{case}/audio"), dim=-1)) < TOLERANCE


@torch.no_grad()
def test_the_text_condition_agrees_with_the_real_tool_padding_included():
    encoder = ClapTextEncoder.from_clap(
        from_laion_clap(state_dict("fused", prefix="")), feature_layer=-2, max_length=7
    )
    features = encoder(torch.tensor(IDS), attention_mask=torch.tensor(MASK)).last_hidden_state
    assert relative_error(features, golden("fused/features")) < TOLERANCE


def test_the_text_branch_comes_back_tensor_by_tensor():
    weights = state_dict("plain")
    exported = text_branch_to_laion_clap(ClapTextEncoder.from_clap(from_laion_clap(weights), max_length=7))
    assert set(exported) == {key for key in weights if key.startswith("module.text_branch.")}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in exported.items())


def test_every_key_that_does_not_fit_is_listed():
    weights = state_dict("plain", prefix="")
    del weights["audio_branch.norm.bias"]
    weights["audio_branch.mel_conv1d.0.weight"] = torch.zeros(1)
    weights["text_branch.pooler.dense.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as info:
        from_laion_clap(weights)
    message = str(info.value)
    assert message.startswith("3 keys do not fit a ClapModel: ")
    for problem in (
        "missing audio_branch.norm.bias",
        "unknown audio_branch.mel_conv1d.0.weight",
        "text_branch.pooler.dense.bias has shape (7,) and not (128,)",
    ):
        assert problem in message


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="not a LAION-CLAP with RoBERTa and HTSAT: it has no text_branch.embeddings"):
        from_laion_clap({"text_branch.a": torch.zeros(1), "audio_branch.b": torch.zeros(1)})
