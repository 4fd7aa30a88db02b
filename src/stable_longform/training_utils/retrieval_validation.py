"""How well held-out audio and prompts find each other."""

from collections.abc import Sequence

import torch
from transformers import ClapModel

from stable_longform.losses.contrastive import clap_loss, retrieval_recall
from stable_longform.training_utils.clap_networks import embed_pairs


@torch.no_grad()
def validate_retrieval(model: ClapModel, tokenizer, pairs: Sequence[dict], batch_size: int) -> dict[str, float]:
    """Loss and retrieval among all pairs of the valid split: every other pair is a candidate.

    Args:
        model: not wrapped; it is in evaluation mode afterwards.
        tokenizer: of the model.
        pairs: items of `PairMaker`.
        batch_size: pairs that are embedded at a time, which does not change the result.

    Returns:
        `valid/contrastive` and `valid/...` of what `retrieval_recall` returns.
    """
    model.eval()
    device = model.logit_scale_a.device
    loader = torch.utils.data.DataLoader(pairs, batch_size=batch_size)
    embeds = [embed_pairs(model, tokenizer, batch, device) for batch in loader]
    audio_embeds, text_embeds = (torch.cat(part) for part in zip(*embeds, strict=True))
    metrics = {"contrastive": clap_loss(audio_embeds, text_embeds, model.logit_scale_a.exp())}
    metrics |= retrieval_recall(audio_embeds, text_embeds)
    return {f"valid/{name}": float(value) for name, value in metrics.items()}
