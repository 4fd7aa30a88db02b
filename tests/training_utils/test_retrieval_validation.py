"""The validation of CLAP: always the same, however the pairs are split into batches."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_training import CLAP
from transformers import RobertaTokenizerFast

from stable_longform.data.clap_pairs import PairMaker
from stable_longform.data.listed_source import ListedSource
from stable_longform.data.manifest import read_manifest
from stable_longform.data.tokenizer import train_tokenizer
from stable_longform.training_utils.clap_networks import build_clap, build_feature_extractor
from stable_longform.training_utils.retrieval_validation import validate_retrieval

AUDIO = CLAP["audio_config"] | {"num_mel_bins": 64}


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    tokenizer = RobertaTokenizerFast(tokenizer_object=train_tokenizer(["Genre: Rock"], 300))
    return build_clap(AUDIO, CLAP["text_config"], CLAP["projection_dim"], 300), tokenizer


def make_pairs(tiny_manifest, num_pairs: int, crop_duration_in_s: float = 1.7) -> list[dict]:
    extractor = build_feature_extractor(AUDIO, CLAP["feature_extractor"])
    source = ListedSource(read_manifest(tiny_manifest, "train"))
    return source.sample(PairMaker(extractor, crop_duration_in_s), num_pairs, 5)


def test_validation_with_fusion_is_deterministic(networks, tiny_manifest):
    """Clips longer than one view are cut at random places, but always at the same ones."""
    results = []
    for seed, batch_size in ((0, 2), (1, 3)):
        np.random.seed(seed)
        torch.manual_seed(seed)
        pairs = make_pairs(tiny_manifest, 4)
        assert len(pairs) == 4 and all(pair["is_longer"] for pair in pairs)
        results.append(validate_retrieval(*networks, pairs, batch_size, Accelerator(cpu=True)))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert {"valid/contrastive", "valid/audio_to_text/recall@1", "valid/text_to_audio/recall@10"} <= set(results[0])


def test_a_model_that_tells_nothing_apart_has_the_loss_of_chance(networks, tiny_manifest):
    """log of the number of candidates, whatever the temperature."""
    model, tokenizer = networks
    for projection in (model.audio_projection.linear2, model.text_projection.linear2):
        torch.nn.init.zeros_(projection.weight)
        torch.nn.init.ones_(projection.bias)
    metrics = validate_retrieval(model, tokenizer, make_pairs(tiny_manifest, 4), 4, Accelerator(cpu=True))
    assert metrics["valid/contrastive"] == pytest.approx(np.log(4), rel=1e-5)
    assert metrics["valid/audio_to_text/recall@1"] == 0 and metrics["valid/audio_to_text/recall@10"] == 1
