"""Validation of CLAP: retrieval between held-out audio and prompts."""

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch.utils.data import default_collate
from transformers import ClapModel

from stable_longform.losses.contrastive import clap_loss, retrieval_recall
from stable_longform.training_utils.clap_networks import embed_pairs
from stable_longform.training_utils.processes import share_out


@torch.no_grad()
def validate_retrieval(
    model: ClapModel, tokenizer, pairs: Sequence[dict], batch_size: int, accelerator: Accelerator
) -> dict[str, float]:
    """Loss and retrieval over all pairs of the valid split; all other pairs are candidates.

    Args:
        model: not wrapped; it is left in evaluation mode.
        tokenizer: of the model.
        pairs: items of `PairMaker`.
        batch_size: number of pairs that are embedded at once; it does not change the result.
        accelerator: of the run; the batches are shared out to its processes, each of which must call this.

    Returns:
        `valid/contrastive`, and the results of `retrieval_recall` with the prefix `valid/`.
    """
    model.eval()
    device = model.logit_scale_a.device

    def embed_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = default_collate(list(pairs[number * batch_size : (number + 1) * batch_size]))
        audio_embeds, text_embeds = embed_pairs(model, tokenizer, batch, device)
        return audio_embeds.cpu(), text_embeds.cpu()

    embeds = share_out(accelerator, math.ceil(len(pairs) / batch_size), embed_batch)
    audio_embeds, text_embeds = (torch.cat(part).to(device) for part in zip(*embeds, strict=True))
    metrics = {"contrastive": float(clap_loss(audio_embeds, text_embeds, model.logit_scale_a.exp()))}
    metrics |= retrieval_recall(audio_embeds, text_embeds)
    return {f"valid/{name}": value for name, value in metrics.items()}
