"""The gradient of a contrastive loss over more pairs than fit into memory at once.

Reference: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup" (2021), arXiv
2101.06983.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

from stable_longform.losses.contrastive import clap_loss, gather_embeds


def contrastive_backward(
    accelerator: Accelerator,
    model,
    embed: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    num_micro_batches: int,
) -> torch.Tensor:
    """Computes the gradient of the loss over the pairs of all micro-batches and processes; returns the loss.

    With several micro-batches, all embeddings are first computed without their graphs. Then the gradient of the loss
    with respect to the embeddings is propagated through each micro-batch separately. The result is that of one large
    batch, except that batch norms see one micro-batch at a time.

    Args:
        accelerator: of the run.
        model: prepared.
        embed: returns the audio and text embeddings `(B, E)` of a micro-batch, the same ones at each call.
        num_micro_batches: at least 1.
    """
    log_scale = accelerator.unwrap_model(model).logit_scale_a
    if num_micro_batches == 1:
        with accelerator.accumulate(model):
            audio_embeds, text_embeds = map(gather_embeds, embed(0))
            loss = clap_loss(audio_embeds, text_embeds, log_scale.exp())
            accelerator.backward(loss)
        return loss.detach()
    with torch.no_grad(), untouched_statistics(model):
        embeds = [torch.cat(parts) for parts in zip(*map(embed, range(num_micro_batches)), strict=True)]
    inputs = [tensor.detach().requires_grad_() for tensor in (*embeds, log_scale)]
    loss = clap_loss(gather_embeds(inputs[0]), gather_embeds(inputs[1]), inputs[2].exp())
    *gradients, scale_gradient = torch.autograd.grad(loss, inputs)
    parts = zip(*(gradient.chunk(num_micro_batches) for gradient in gradients), strict=True)
    for micro_batch, part in enumerate(parts):
        with accelerator.accumulate(model):
            product = sum((own * gradient).sum() for own, gradient in zip(embed(micro_batch), part, strict=True))
            if micro_batch == num_micro_batches - 1:
                product = product + log_scale * scale_gradient
            accelerator.backward(product * num_micro_batches)  # backward divides by it
    return loss.detach()


@contextlib.contextmanager
def untouched_statistics(model: torch.nn.Module) -> Iterator[None]:
    """A context in which batch norms in training mode do not update their running statistics."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
