"""Decoding in bfloat16 on a CPU: the switch, and whether the CPU has instructions for it."""

import torch


class Bfloat16DecodingMixin:
    """Adds the switch for bfloat16 decoding to an autoencoder."""

    use_bfloat16_decoding = False

    def enable_bfloat16_decoding(self) -> None:
        """Runs the convolutions of a float32 decoder in bfloat16 on a CPU, which takes 0.55 to 0.6 of the time.

        The waveform changes by about 0.4 % of its norm, see docs/benchmarks.md. This has no effect on a GPU, with
        gradients, or on a CPU without bfloat16 instructions. The encoder always computes in the model's dtype: its
        latents would change by 5 %.
        """
        self.use_bfloat16_decoding = True

    def disable_bfloat16_decoding(self) -> None:
        """Decodes in the model's dtype (the default)."""
        self.use_bfloat16_decoding = False


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for products in bfloat16."""
    return torch.backends.mkldnn.is_available() and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
