import pytest
import torch
from common import (
    check_determinism,
    check_gradient_checkpointing,
    check_half_precision,
    check_save_load,
    randomize_weights,
)
from diffusers import DiffusionPipeline
from tiny_pipeline import PROMPTS, tiny_text_encoder, tiny_tokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig, T5Config, T5EncoderModel

from stable_longform.models.clap_text_encoder import ClapTextEncoder, encode_texts, tokenize_texts

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 14,
    "max_length": 12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
PAD = 1


class TextOnlyPipeline(DiffusionPipeline):
    def __init__(self, text_encoder):
        super().__init__()
        self.register_modules(text_encoder=text_encoder)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return randomize_weights(ClapTextEncoder(**TINY), std=0.1).eval()


@pytest.fixture
def prompts():
    """Two prompts of five and seven tokens, padded to nine."""
    input_ids = torch.full((2, 9), PAD)
    input_ids[0, :5] = torch.tensor([0, 17, 4, 33, 2])
    input_ids[1, :7] = torch.tensor([0, 8, 49, 8, 21, 5, 2])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}


@pytest.fixture
def clap():
    torch.manual_seed(0)
    text = ClapTextConfig(**{k: v for k, v in TINY.items() if k != "max_length"}, layer_norm_eps=1e-7)
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        num_hidden_layers=2,
        spec_size=64,
        num_mel_bins=16,
        patch_size=4,
        patch_stride=4,
        window_size=4,
    )
    config = ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)
    return randomize_weights(ClapModel(config), std=0.1).eval()


def test_default_size():
    with torch.device("meta"):
        encoder = ClapTextEncoder()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 124_645_632
    assert encoder.text_model.config.layer_norm_eps == 1e-5
    assert encoder.config.max_length == 77


@pytest.mark.parametrize("feature_layer", [-1, -2, -3, -4])
@pytest.mark.parametrize("mask_dtype", [None, torch.bool, torch.int64])
def test_equals_hidden_state_of_transformers_model(prompts, feature_layer, mask_dtype):
    """P14. Any layer, the next to last among them."""
    torch.manual_seed(0)
    encoder = randomize_weights(ClapTextEncoder(**TINY, feature_layer=feature_layer), std=0.1).eval()
    if mask_dtype is None:
        prompts["attention_mask"] = None
    expected = encoder.text_model(**prompts, output_hidden_states=True).hidden_states
    assert len(expected) == TINY["num_hidden_layers"] + 1
    if mask_dtype is not None:
        prompts["attention_mask"] = prompts["attention_mask"].to(mask_dtype)
    features = encoder(**prompts).last_hidden_state
    assert features.shape == (2, 9, 16)
    torch.testing.assert_close(features, expected[feature_layer], rtol=1e-5, atol=1e-6)
    assert torch.equal(encoder(**prompts, return_dict=False)[0], features)


def test_layers_above_the_feature_layer_are_not_computed(encoder, prompts):
    calls = []
    for index, layer in enumerate(encoder.text_model.encoder.layer):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    encoder(**prompts)
    assert calls == [0, 1]


def test_features_of_tokens_do_not_depend_on_padding(encoder, prompts):
    features = encoder(**prompts).last_hidden_state
    for index, length in enumerate([5, 7]):
        alone = encoder(prompts["input_ids"][index : index + 1, :length]).last_hidden_state
        torch.testing.assert_close(features[index, :length], alone[0], rtol=1e-5, atol=1e-5)
    unmasked = encoder(prompts["input_ids"]).last_hidden_state
    assert (unmasked[0, :5] - features[0, :5]).abs().max() > 1e-3
    assert features[0, 5:].norm() > 0.1  # padding features are left as they are


def test_from_clap(clap, prompts, tmp_path):
    encoder = ClapTextEncoder.from_clap(clap, max_length=9)
    assert not encoder.training
    assert encoder.config.layer_norm_eps == 1e-7 and encoder.config.max_length == 9
    expected = clap.text_model(**prompts, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(encoder(**prompts).last_hidden_state, expected, rtol=1e-5, atol=1e-6)

    clap.save_pretrained(tmp_path / "clap")
    from_folder = ClapTextEncoder.from_clap(tmp_path / "clap", feature_layer=-1, max_length=9)
    last = clap.text_model(**prompts).last_hidden_state
    torch.testing.assert_close(from_folder(**prompts).last_hidden_state, last, rtol=1e-5, atol=1e-6)


def test_from_clap_copies(clap, prompts):
    encoder = ClapTextEncoder.from_clap(clap, max_length=9)
    before = encoder(**prompts).last_hidden_state
    randomize_weights(clap, seed=1)
    assert torch.equal(encoder(**prompts).last_hidden_state, before)


def test_inside_a_pipeline(encoder, prompts, tmp_path):
    TextOnlyPipeline(encoder).save_pretrained(tmp_path)
    loaded = TextOnlyPipeline.from_pretrained(tmp_path).text_encoder
    assert type(loaded) is ClapTextEncoder
    assert torch.equal(loaded(**prompts).last_hidden_state, encoder(**prompts).last_hidden_state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": torch.ones(2, 9)}, "torch.float32"),
        ({"attention_mask": torch.ones(2, 8, dtype=torch.bool)}, r"shape \(2, 8\)"),
        ({"attention_mask": torch.ones(9, dtype=torch.bool)}, r"shape \(9,\)"),
        ({"input_ids": torch.zeros(9, dtype=torch.long)}, r"shape \(9,\)"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "non-empty"),
        ({"input_ids": torch.zeros(2, 9)}, "torch.float32"),
        ({"input_ids": torch.zeros(2, 13, dtype=torch.long)}, "at most 12 tokens per item, got 13"),
        ({"input_ids": torch.full((2, 9), 50)}, r"\[0, 50\), got values from 50 to 50"),
        ({"input_ids": torch.full((2, 9), -1)}, r"\[0, 50\)"),
    ],
)
def test_rejects(encoder, prompts, change, message):
    with pytest.raises(ValueError, match=message):
        encoder(**(prompts | change))


@pytest.mark.parametrize("change", [{"feature_layer": 0}, {"feature_layer": -5}, {"max_length": 13}])
def test_rejects_config(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ClapTextEncoder(**(TINY | change))


def test_longest_input(encoder):
    """The position table has room for the tokens after its first pad_token_id + 1 entries."""
    assert encoder(torch.full((1, 12), 3)).last_hidden_state.shape == (1, 12, 16)


def test_model_checks(encoder, prompts, tmp_path):
    check_save_load(encoder, prompts, tmp_path)
    check_determinism(encoder, prompts)
    check_half_precision(encoder, prompts, tolerance=0.03)
    check_gradient_checkpointing(encoder, prompts)


@pytest.mark.parametrize("max_length", [3, 12, 40])
def test_tokens_are_the_tokenizers_own(max_length):
    """Padded or cut as `padding="max_length", truncation=True` does it, whatever the tokenizer was used for before."""
    texts, tokenizer = ["", "piano", *PROMPTS], tiny_tokenizer()
    expected = tokenizer(texts, padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
    input_ids, mask, num_tokens = tokenize_texts(tokenizer, texts, max_length)
    assert torch.equal(input_ids, expected.input_ids) and torch.equal(mask, expected.attention_mask.bool())
    assert num_tokens == [len(tokenizer(text).input_ids) for text in texts]


def test_texts_are_encoded_with_the_mask_of_their_tokens():
    encoder, tokenizer = tiny_text_encoder().eval(), tiny_tokenizer()
    features, mask = encode_texts(encoder, tokenizer, PROMPTS[1:3])
    input_ids, expected_mask, _ = tokenize_texts(tokenizer, PROMPTS[1:3], encoder.config.max_length)
    assert torch.equal(mask, expected_mask) and not mask.all()
    with torch.no_grad():
        assert torch.equal(features, encoder(input_ids, attention_mask=mask).last_hidden_state)


def test_another_encoder_has_the_length_of_its_tokenizer():
    torch.manual_seed(0)
    encoder = T5EncoderModel(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 20
    features, mask = encode_texts(encoder, tokenizer, PROMPTS[:2])
    assert features.shape == (2, 20, 16) and mask.shape == (2, 20)
    tokenizer.model_max_length = 10**30
    with pytest.raises(ValueError, match="must be at most 4096 tokens, got 1000000"):
        encode_texts(encoder, tokenizer, PROMPTS[:2])
