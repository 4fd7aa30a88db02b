"""A random BERT of two layers with a tokenizer, in the files of the published MiniLM."""

from pathlib import Path

import torch
from tiny_pipeline import tiny_tokenizer
from transformers import BertConfig, BertModel


def save_tiny_minilm(folder: Path) -> None:
    """Saves it; embeddings have 16 numbers."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=512, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
