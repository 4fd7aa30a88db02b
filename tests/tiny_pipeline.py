"""A pipeline of tiny real components, random but for the noise schedule. Tests call it; nothing here runs alone."""

import functools

import torch
from common import randomize_weights
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.schedulers.scheduling import make_scheduler

PROMPTS = ("Genre: Ambient|Instruments: Piano, Strings", "deep house, 120 BPM", "solo piano", "rock, drums, guitar")
SHORT = "solo piano"  # fewer tokens than the text encoder takes; the first of the prompts has more
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # ids 0 to 4, as in RoBERTa
VOCAB_SIZE = 280
MAX_LENGTH = 12  # tokens of a prompt
LATENT_CHANNELS = 4
WIDTH = 16  # of text and timing features


@functools.cache
def _trained_tokenizer() -> str:
    """A byte-level BPE tokenizer trained on the prompts above, with RoBERTa's special tokens, as JSON."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        PROMPTS, vocab_size=VOCAB_SIZE, min_frequency=1, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer.to_str()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that adds <s> and </s> and pads with id 1."""
    start, pad, end, unknown, mask = SPECIAL_TOKENS
    tokenizer = Tokenizer.from_str(_trained_tokenizer())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        cls_token=start,
        pad_token=pad,
        eos_token=end,
        sep_token=end,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=512,  # as roberta-base's
    )


def tiny_vae(downsampling_ratios: tuple[int, ...] = (2, 2, 2, 2, 2), sampling_rate: int = 8000) -> AutoencoderOobleck:
    """An autoencoder with random weights; 32 samples a frame unless told otherwise."""
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=downsampling_ratios,
        channel_multiples=(1, 2, 2, 2, 2),
        decoder_channels=4,
        decoder_input_channels=LATENT_CHANNELS,
        sampling_rate=sampling_rate,
    )
    return randomize_weights(vae, seed=1, std=0.1)


def tiny_text_encoder() -> ClapTextEncoder:
    """A text encoder of three layers with random weights."""
    encoder = ClapTextEncoder(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=MAX_LENGTH + 2,
        max_length=MAX_LENGTH,
    )
    return randomize_weights(encoder, seed=2, std=0.1)


def tiny_transformer(sample_size: int = 64) -> DiTTransformer1D:
    """A transformer of two blocks with random weights."""
    transformer = DiTTransformer1D(
        sample_size=sample_size,
        in_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        out_channels=LATENT_CHANNELS,
        cross_attention_dim=WIDTH,
        time_proj_dim=16,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    return randomize_weights(transformer, seed=3, std=0.2)


def tiny_components(
    downsampling_ratios: tuple[int, ...] = (2, 2, 2, 2, 2), sampling_rate: int = 8000, sample_size: int = 64
) -> dict:
    """All components of the pipeline, in evaluation mode."""
    torch.manual_seed(0)
    components = {
        "vae": tiny_vae(downsampling_ratios, sampling_rate).eval(),
        "text_encoder": tiny_text_encoder().eval(),
        "tokenizer": tiny_tokenizer(),
        "timing_conditioner": randomize_weights(TimingConditioner(WIDTH, internal_dim=8), seed=4, std=0.3).eval(),
        "transformer": tiny_transformer(sample_size).eval(),
        "scheduler": make_scheduler(),
    }
    return components


def tiny_pipeline(
    pipeline_class: type = LongFormMusicPipeline, mask_text_padding: bool = False, **sizes
) -> LongFormMusicPipeline:
    """A pipeline over `tiny_components(**sizes)`: by default a window of 64 frames of 32 samples, 0.256 s."""
    pipe = pipeline_class(**tiny_components(**sizes), mask_text_padding=mask_text_padding)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seed(number: int) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(number)


def generate(pipe: LongFormMusicPipeline, prompt: str | list[str] | None = SHORT, **arguments):
    """Four steps from a seed; returns what the pipeline calls `audios`."""
    defaults = {"num_inference_steps": 4, "generator": seed(0)}
    return pipe(prompt, **defaults | arguments).audios


def record_transformer(pipe: LongFormMusicPipeline) -> list[dict]:
    """A list that gets the arguments of every call of the transformer."""
    calls = []

    def hook(module, args, kwargs):
        calls.append({"latents": args[0], "timestep": args[1], **kwargs})

    pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    return calls
