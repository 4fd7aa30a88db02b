"""Fixtures of the tests of the training: random parts of a checkpoint, and latents, on disk."""

import pytest
import torch
import yaml
from launch import check_script
from tiny_pipeline import tiny_pipeline
from tiny_training import AUTOENCODER, CLAP, DIT
from tokenizers import ByteLevelBPETokenizer
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig, RobertaTokenizerFast

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck

FEW_STEPS = {"max_steps": 3, "save_every": 100, "validate_every": 100, "log_every": 1}


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


@pytest.fixture
def training_command(tmp_path, tiny_manifest, autoencoder, clap, latents):
    """A function from a script to the command that trains it for three steps, but for the output folder."""

    def settings_of(script: str) -> dict:
        if script == "train_linear_start.py":
            settings = {name: AUTOENCODER[name] for name in ("model", "crop_num_samples", "num_validation_crops")}
            return settings | {"manifest": str(tiny_manifest), "edge_num_samples": 64, "num_workers": 0}
        if script == "train_autoencoder.py":
            return AUTOENCODER | {"manifest": str(tiny_manifest), "discriminator_start_step": 5}
        if script == "train_clap.py":
            return CLAP | {"manifest": str(tiny_manifest), "num_validation_pairs": 2}
        if script == "train_dit.py":
            return DIT | {"latents": str(latents), "clap": str(clap)}
        tiny_pipeline(mask_text_padding=True).save_pretrained(tmp_path / "checkpoint")
        vae = tmp_path / "checkpoint" / "vae"
        check_script("encode_latents.py", "--manifest", tiny_manifest, "--autoencoder", vae,
                     "--output_dir", tmp_path / "latents")  # fmt: skip
        paths = {"checkpoint": str(tmp_path / "checkpoint"), "latents": str(tmp_path / "latents")}
        return {"batch_size": 2, "num_workers": 0, "num_validation_windows": 2, "learning_rate": 1e-2, **paths}

    def make(script: str) -> list:
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings_of(script) | FEW_STEPS))
        return [script, "--config", tmp_path / "settings.yaml", "--output_dir"]

    return make
