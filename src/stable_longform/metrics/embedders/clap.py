"""CLAP with transformers: LAION's, or a model from `training/train_clap.py`.

Conventions: mono at the feature extractor's rate, rounded to 16 bits as in LAION's code; one embedding for a
recording, whatever its length. A model with fusion sees a shrunk version of a long recording and three chunks of it,
which the extractor draws at random. The draw is seeded, so the same audio always has the same embedding.

References: Wu et al., "Large-scale contrastive language-audio pretraining" (2023). Paper: §4.1, CLAP score.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from stable_longform.metrics.embedders.features import AudioFeatures, check_waveform
from stable_longform.utils.files import weights_sha256
from stable_longform.utils.model_sources import load_whole
from stable_longform.utils.seeding import seeded_numpy

LAION_CLAP = "laion/clap-htsat-fused"  # HTSAT-tiny with fusion, as in the paper's evaluation
MAX_TOKENS = 77
SEED = 0
PCM_SCALE = 32767


class ClapEmbedder:
    """Embeddings of audio and text in the same space.

    Args:
        model: transformers' `ClapModel`.
        feature_extractor: its feature extractor.
        tokenizer: its tokenizer.
        name: for the report.
        source: folder or Hub id, for the report.
    """

    num_channels = 1
    metrics = ("clap_score",)

    def __init__(
        self, model: ClapModel, feature_extractor: ClapFeatureExtractor, tokenizer, name: str, source: str = ""
    ):
        self.model, self.feature_extractor, self.tokenizer = model.eval(), feature_extractor, tokenizer
        self.name, self.source, self.sampling_rate = name, source, feature_extractor.sampling_rate

    @classmethod
    def from_pretrained(
        cls, source: str = LAION_CLAP, name: str = "laion_clap", device: str | torch.device = "cpu"
    ) -> "ClapEmbedder":
        """Opens a folder or Hub id that holds model, feature extractor and tokenizer."""
        model = load_whole(ClapModel, source).to(device)
        extractor = ClapFeatureExtractor.from_pretrained(source)
        return cls(model, extractor, AutoTokenizer.from_pretrained(source), name, str(source))

    @property
    def protocol(self) -> dict:
        """Everything that the numbers depend on."""
        return {
            "network": self.name,
            "weights_sha256": weights_sha256(self.model),
            "source": self.source,
            "sampling_rate": self.sampling_rate,
            "channels": "mean of left and right",
            "truncation": self.feature_extractor.truncation,
            "seed": SEED,
        }

    @torch.no_grad()
    def __call__(self, waveform: torch.Tensor) -> AudioFeatures:
        """One embedding `(1, dim)` of `(1, num_samples)`, of unit length.

        Raises:
            ValueError: the waveform has another shape, is empty or is not finite.
        """
        check_waveform(waveform, 1, 1)
        extractor = self.feature_extractor
        samples = (waveform[0].clamp(-1, 1) * PCM_SCALE).trunc().div(PCM_SCALE).numpy()
        with seeded_numpy(SEED):
            inputs = extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt")
        num_views, longest = inputs["input_features"].shape[1], extractor.nb_max_samples // extractor.hop_length
        is_longer = num_views > 1 and len(samples) // extractor.hop_length > longest
        output = self.model.get_audio_features(
            input_features=inputs["input_features"].float().to(self.model.device),
            is_longer=torch.tensor([[is_longer]], device=self.model.device),
        )
        return AudioFeatures(output.pooler_output.float().cpu().numpy())

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings `(num_texts, dim)` of unit length; texts of more than 77 tokens are cut."""
        outputs = []
        for text in texts:
            tokens = self.tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            outputs.append(
                self.model.get_text_features(
                    input_ids=tokens["input_ids"].to(self.model.device),
                    attention_mask=tokens["attention_mask"].to(self.model.device),
                ).pooler_output
            )
        return torch.cat(outputs).float().cpu().numpy()
