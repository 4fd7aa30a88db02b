"""Loads the trained models from which a script starts, and exports its results."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.utils.files import atomic_folder


def load_text_encoder(source: str | os.PathLike) -> tuple[ClapTextEncoder, PreTrainedTokenizerBase]:
    """Loads the text encoder and its tokenizer from the result of a CLAP training or from a pipeline.

    Args:
        source: folder or Hub id of a transformers ClapModel with its tokenizer, or folder of a pipeline.

    Raises:
        ValueError: there is no such folder or Hub id, something in it cannot be used, or the tokenizer has more tokens
            than the text encoder.
    """
    if (Path(source) / "model_index.json").is_file():
        text_encoder = ClapTextEncoder.from_pretrained(source, subfolder="text_encoder")
        tokenizer = AutoTokenizer.from_pretrained(source, subfolder="tokenizer")
    else:
        text_encoder, tokenizer = ClapTextEncoder.from_clap(source), AutoTokenizer.from_pretrained(source)
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {source} has {len(tokenizer)} tokens, "
            f"the text encoder takes {text_encoder.config.vocab_size}."
        )
    return text_encoder, tokenizer


def load_weights(model: torch.nn.Module, source: torch.nn.Module, option: str = "init_from") -> None:
    """Copies all weights of `source` to `model`; `option` is the option that errors mention.

    The models may differ in settings without weights, such as the length of the window.

    Raises:
        ValueError: the names or shapes of the weights differ.
    """
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"--{option} has other weights than the model: {error}") from error


def export_model(model, directory: str | os.PathLike, *companions, keep: Sequence[str] = (), **options) -> None:
    """Saves `model` to `directory` through a temporary folder and replaces the previous content.

    `companions`, such as a tokenizer or a feature extractor, are saved into the same folder. Files named in `keep` are
    kept. `options` are those of the model's `save_pretrained`.
    """
    with atomic_folder(directory) as partial:
        model.save_pretrained(partial, **options)
        for part in companions:
            part.save_pretrained(partial)
        for file in (Path(directory) / name for name in keep):
            if file.is_file():
                shutil.copy2(file, partial)
