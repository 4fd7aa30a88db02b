"""Fixtures of the tests of the training: random parts of a checkpoint, and latents, on disk."""

import pytest
import torch
from launch import check_script
from tokenizers import ByteLevelBPETokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig, RobertaTokenizerFast

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """A random autoencoder with short frames."""
    folder = tmp_path_factory.mktemp("autoencoder") / "autoencoder"
    torch.manual_seed(0)
    AutoencoderOobleck(4, (2, 4, 4, 8, 8), (1, 2, 2, 2, 2), 4, 4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clap(tmp_path_factory):
    """A random CLAP with its tokenizer."""
    folder = tmp_path_factory.mktemp("clap") / "clap"
    torch.manual_seed(0)
    text = ClapTextConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=80,
    )  # fmt: skip
    audio = ClapAudioConfig(patch_embeds_hidden_size=4, depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2])
    config = ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)
    ClapModel(config).save_pretrained(folder)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["Genre: Rock"], 300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.save_model(str(folder.parent))
    vocab, merges = (str(folder.parent / name) for name in ("vocab.json", "merges.txt"))
    RobertaTokenizerFast(vocab=vocab, merges=merges).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def latents(tmp_path_factory, tiny_manifest, autoencoder):
    """The encoded corpus."""
    folder = tmp_path_factory.mktemp("latents") / "latents"
    check_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", autoencoder,
                 "--output_dir", folder)  # fmt: skip
    return folder
