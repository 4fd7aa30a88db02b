"""A tiny `StableAudioPipeline` of diffusers, random weights, odd sizes. Tests call it; nothing here runs alone."""

import torch
from common import randomize_weights
from diffusers import (
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel, T5TokenizerFast

MAX_LENGTH = 11  # tokens of a prompt
WIDTH = 12  # of the conditions
SAMPLE_SIZE = 37  # frames of 32 samples
PIECES = ("▁solo", "▁piano", "▁drums", "▁slow", "s", "o", "l", "p", "i", "a", "n", "d", "r", "u", "m", "w", "▁", "e")


def tiny_t5_tokenizer() -> PreTrainedTokenizerBase:
    """A unigram tokenizer as T5's: pads with id 0, ends texts with id 1."""
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((piece, -1.0 - i / 10) for i, piece in enumerate(PIECES)),
    ]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, vocab=pieces, extra_ids=0, model_max_length=MAX_LENGTH)


def tiny_t5(d_model: int = WIDTH) -> T5EncoderModel:
    """A T5 encoder of two layers with random weights."""
    config = T5Config(
        vocab_size=3 + len(PIECES),
        d_model=d_model,
        d_kv=5,
        d_ff=9,
        num_layers=2,
        num_heads=3,
        decoder_start_token_id=0,
    )
    return randomize_weights(T5EncoderModel(config), seed=2, std=0.1).eval()


def stable_audio_pipeline(text_encoder_dim: int = WIDTH, num_key_value_heads: int = 1) -> StableAudioPipeline:
    """The pipeline; a text encoder of another width than `WIDTH` gives it a text projection."""
    torch.manual_seed(0)
    vae = AutoencoderOobleck(
        encoder_hidden_size=10,
        downsampling_ratios=[2, 4, 4],
        channel_multiples=[1, 2, 3],
        decoder_channels=6,
        decoder_input_channels=5,
        sampling_rate=8000,
    )
    transformer = StableAudioDiTModel(
        sample_size=SAMPLE_SIZE,
        in_channels=5,
        num_layers=3,
        attention_head_dim=12,
        num_attention_heads=3,
        num_key_value_attention_heads=num_key_value_heads,
        out_channels=5,
        cross_attention_dim=12 * num_key_value_heads,
        time_proj_dim=18,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    projection = StableAudioProjectionModel(text_encoder_dim, WIDTH, 0, 300)
    for seed, (model, std) in enumerate(((vae, 0.1), (transformer, 0.2), (projection, 0.3)), start=3):
        randomize_weights(model, seed, std).eval()
    pipe = StableAudioPipeline(
        vae=vae,
        text_encoder=tiny_t5(text_encoder_dim),
        projection_model=projection,
        tokenizer=tiny_t5_tokenizer(),
        transformer=transformer,
        scheduler=CosineDPMSolverMultistepScheduler(solver_order=2),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
