"""Classifier-free guidance. Paper: §3.

References: Ho and Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598. Lin et al., "Common diffusion
noise schedules and sample steps are flawed", arXiv 2305.08891 (rescaling).
"""

import torch


def guide(
    unconditional: torch.Tensor, conditional: torch.Tensor, guidance_scale: float, guidance_rescale: float = 0.0
) -> torch.Tensor:
    """Classifier-free guidance v_u + s·(v_c − v_u), with the rescaling φ of Lin et al. (2023), eq. 15 and 16.

    The standard deviations are over the channels of each frame, as in the code of the paper.

    Args:
        unconditional: v_u `(B, C, L)`.
        conditional: v_c `(B, C, L)`.
        guidance_scale: s.
        guidance_rescale: φ in [0, 1].
    """
    guided = unconditional + guidance_scale * (conditional - unconditional)
    if guidance_rescale == 0:
        return guided
    rescaled = guided * conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True)
    return guidance_rescale * rescaled + (1 - guidance_rescale) * guided
