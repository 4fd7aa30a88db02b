"""The contrastive loss of CLAP, and the recall of retrieval between audio and text.

Conventions: embeddings are `(B, E)` of unit length, audio and text in the same order: row i of one belongs to row i of
the other, and all other rows are negatives. Two crops of one track, or two tracks with the same prompt, would be false
negatives if they were in one batch, so the tracks must be distinct (`data.clap_pairs` takes care of it).

References: Wu et al., "Large-scale contrastive language-audio pretraining", arXiv 2211.06687, eq. 3. Radford et al.,
"Learning transferable visual models from natural language supervision", arXiv 2103.00020, fig. 3.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.nn.functional import all_gather


def clap_loss(
    audio_embeds: torch.Tensor, text_embeds: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """Cross-entropy of finding each audio's text plus that of finding each text's audio, halved.

    `½ [CE(s·A Tᵀ) + CE(s·T Aᵀ)]`. Wu et al., eq. 3. Paper: §2.4. (`return_loss` of transformers' ClapModel differs: it
    counts the text-to-audio term twice.)

    Args:
        audio_embeds: `(B, E)`, of unit length.
        text_embeds: `(B, E)`, of unit length, in the same order.
        logit_scale: s > 0, the inverse temperature: the exponential of the model's `logit_scale_a`.

    Returns:
        A scalar: log B if all pairs are equally likely, close to 0 if every pair is found with certainty.

    Raises:
        ValueError: the embeddings are not both `(B, E)`.
    """
    _check_pairs(audio_embeds, text_embeds)
    logits = logit_scale * audio_embeds @ text_embeds.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def gather_embeds(embeds: torch.Tensor) -> torch.Tensor:
    """Joins the `(B, E)` of all processes to `(num_processes · B, E)`; gradients flow back to each of them.

    If every process computes the same loss of the joined embeddings, DistributedDataParallel's average of the
    gradients is the gradient of that loss. Without a process group, the argument is returned.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return embeds
    return torch.cat(all_gather(embeds))


def retrieval_recall(
    audio_embeds: torch.Tensor, text_embeds: torch.Tensor, ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of queries whose partner is among the k most similar candidates, in both directions.

    Args:
        audio_embeds: `(B, E)`, of unit length.
        text_embeds: `(B, E)`, of unit length, in the same order.
        ranks: the values of k.

    Returns:
        `{"audio_to_text/recall@1": in [0, 1], ...}`. Candidates that tie with the partner count half, so that equal
        embeddings do not look perfect.

    Raises:
        ValueError: the embeddings are not both `(B, E)`.
    """
    _check_pairs(audio_embeds, text_embeds)
    similarity = audio_embeds @ text_embeds.T
    recalls: dict[str, float] = {}
    for name, scores in (("audio_to_text", similarity), ("text_to_audio", similarity.T)):
        own = scores.diagonal()[:, None]
        better, tied = (scores > own).sum(dim=1), (scores == own).sum(dim=1) - 1
        position = 1 + better + tied / 2
        recalls |= {f"{name}/recall@{k}": float((position <= k).float().mean()) for k in ranks}
    return recalls


def _check_pairs(audio_embeds: torch.Tensor, text_embeds: torch.Tensor) -> None:
    """Raises a ValueError unless both are `(B, E)`."""
    if audio_embeds.ndim != 2 or audio_embeds.shape != text_embeds.shape:
        raise ValueError(
            "audio_embeds and text_embeds must both be (B, E), "
            f"got {tuple(audio_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
