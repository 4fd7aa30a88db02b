"""The diffusion transformer: predicts the velocity of a sequence of audio latents.

Conventions: latents are `(B, C, L)`, with C channels and L frames; inside the blocks a sequence is `(B, S, D)` and its
heads `(B, S, H, head_dim)`. Masks are boolean, True = attend. Time t runs from 0 (music) to 1 (noise).

State dict keys are those of diffusers' `StableAudioDiTModel`, so the weights of either load into the other.

Contents: `DiTTransformer1D`, made of `DiTBlock` (`DiTAttention` and diffusers' SwiGLU feed-forward), and
`FourierFeatures` for the time.

References: Evans et al., "Long-form music generation with latent diffusion", arXiv 2404.10301, §2.2, figure 2.
Shazeer, "GLU variants improve transformer", arXiv 2002.05202.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin, FeedForward
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from stable_longform.models.acceleration.engine import engine_for
from stable_longform.models.checked_loading import CheckedModelMixin, check_booleans, check_integers
from stable_longform.models.dit_attention import Context, DiTAttention, rotary_table
from stable_longform.models.single_file import SingleFileMixin
from stable_longform.models.stable_audio_tools_keys import TRANSFORMER_PREFIX, transformer_keys


class FourierFeatures(nn.Module):
    """Trainable Gaussian Fourier features of the time: [cos(2 pi t w), sin(2 pi t w)], always in float32.

    Args:
        embedding_dim: number of features, even.
    """

    def __init__(self, embedding_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(embedding_dim // 2))

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        """Maps times `(B,)` to `(B, embedding_dim)` in float32."""
        angles = 2 * math.pi * timestep.float()[:, None] * self.weight.float()
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class DiTBlock(nn.Module):
    """One block: self-attention, cross-attention and a SwiGLU feed-forward, each with a layer norm and a residual.

    Paper: §2.2. The output projections start at zero, so that a fresh block is the identity.

    Args:
        dim: width of the sequence.
        num_heads: number of query heads.
        head_dim: channels per head; the first half of them is rotated in self-attention.
        num_key_value_heads: number of key and value heads of the cross-attention.
        cross_attention_dim: width of the cross-attended sequence.
        norm_bias: whether the layer norms have a bias.
        qk_norm: of both attentions, see `DiTAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        num_key_value_heads: int,
        cross_attention_dim: int,
        norm_bias: bool,
        qk_norm: str | None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5, bias=norm_bias)
        self.attn1 = DiTAttention(dim, num_heads, head_dim, num_heads, qk_norm=qk_norm)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5, bias=norm_bias)
        self.attn2 = DiTAttention(dim, num_heads, head_dim, num_key_value_heads, cross_attention_dim, qk_norm)
        self.norm3 = nn.LayerNorm(dim, eps=1e-5, bias=norm_bias)
        self.ff = FeedForward(dim, mult=4, activation_fn="swiglu")
        for parameter in (self.attn1.to_out[0].weight, self.attn2.to_out[0].weight, *self.ff.net[2].parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: Context | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        rotary_embedding: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Maps `(B, S, dim)` to `(B, S, dim)`; masks are boolean `(B, S)` and `(B', S2)` or `(B', S, S2)`.

        `encoder_hidden_states` has B' items. Only the last B' items of the batch attend to it; the others skip
        cross-attention.
        """
        hidden_states = hidden_states + self.attn1(
            self.norm1(hidden_states), attention_mask=attention_mask, rotary_embedding=rotary_embedding
        )
        if encoder_hidden_states is not None:
            rows = (
                encoder_hidden_states if isinstance(encoder_hidden_states, torch.Tensor) else encoder_hidden_states[0]
            )
            others, attending = hidden_states.split([len(hidden_states) - len(rows), len(rows)])
            added = self.attn2(self.norm2(attending), encoder_hidden_states, attention_mask=encoder_attention_mask)
            hidden_states = torch.cat([others, attending + added]) if len(others) else hidden_states + added
        return hidden_states + self.ff(self.norm3(hidden_states))


# diffusers' cache hooks need to know that a block returns only the hidden states.
TransformerBlockRegistry.register(DiTBlock, TransformerBlockMetadata(return_hidden_states_index=0))


class DiTTransformer1D(
    CheckedModelMixin, ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin, SingleFileMixin
):
    """The diffusion transformer (DiT) over audio latents.

    Paper: §2.2, figure 2. Text and timing enter through cross-attention. Timing and the time t also form one token in
    front of the latents. The defaults are the paper's model for 4m45s with 1,056,828,544 parameters. A fresh model
    returns `proj_out(proj_in(x))` frame by frame.

    Args:
        sample_size: longest sequence, in latent frames; a multiple of `patch_size`.
        in_channels: channels of the latents.
        num_layers: number of blocks.
        attention_head_dim: channels per head, a multiple of 4.
        num_attention_heads: number of query heads; the inner width is `num_attention_heads * attention_head_dim`.
        num_key_value_attention_heads: key and value heads of the cross-attention, a divisor of
            `num_attention_heads`.
        out_channels: channels of the output.
        cross_attention_dim: width of the cross-attended sequence after its projection.
        time_proj_dim: number of Fourier features of the time, even.
        global_states_input_dim: width of `global_hidden_states`.
        cross_attention_input_dim: width of `encoder_hidden_states`.
        patch_size: latent frames folded into one token. Not in the paper, which uses 1.
        norm_bias: whether the layer norms have biases. The paper's model has none; diffusers' checkpoints do.
        qk_norm: "layer_norm" normalises queries and keys, as in Stable Audio Open Small. None, as in the paper, does
            not.

    Raises:
        ValueError: a size is not an integer or out of range, or the sizes don't fit each other.
    """

    _class_names_of_diffusers = ("StableAudioDiTModel",)
    _supports_gradient_checkpointing = True
    _no_split_modules = ["DiTBlock"]
    stable_audio_tools_prefix = TRANSFORMER_PREFIX
    stable_audio_tools_keys = staticmethod(transformer_keys)
    _repeated_blocks = ["DiTBlock"]
    # Context parallelism: every block works on a part of the tokens; the text tokens are whole on each device.
    _cp_plan = {
        "transformer_blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3)},
        "transformer_blocks.*": {
            "encoder_attention_mask": ContextParallelInput(split_dim=1, expected_dims=3),
            "rotary_embedding": [ContextParallelInput(split_dim=0, expected_dims=2)] * 2,
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }
    _skip_layerwise_casting_patterns = ["time_proj", "p(re|ost)process_conv", "^proj_in$", "^proj_out$", "norm"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 6144,
        in_channels: int = 64,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        num_key_value_attention_heads: int = 12,
        out_channels: int = 64,
        cross_attention_dim: int = 768,
        time_proj_dim: int = 256,
        global_states_input_dim: int = 1536,
        cross_attention_input_dim: int = 768,
        patch_size: int = 1,
        norm_bias: bool = False,
        qk_norm: str | None = None,
    ):
        super().__init__()
        _check_config(self.config)
        inner_dim = num_attention_heads * attention_head_dim
        self.time_proj = FourierFeatures(time_proj_dim)
        self.timestep_proj = _two_layers(time_proj_dim, inner_dim, bias=True)
        self.global_proj = _two_layers(global_states_input_dim, inner_dim, bias=False)
        self.cross_attention_proj = _two_layers(cross_attention_input_dim, cross_attention_dim, bias=False)
        self.preprocess_conv = nn.Conv1d(in_channels, in_channels, 1, bias=False)
        self.proj_in = nn.Linear(in_channels * patch_size, inner_dim, bias=False)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(
                dim=inner_dim,
                num_heads=num_attention_heads,
                head_dim=attention_head_dim,
                num_key_value_heads=num_key_value_attention_heads,
                cross_attention_dim=cross_attention_dim,
                norm_bias=norm_bias,
                qk_norm=qk_norm,
            )
            for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(inner_dim, out_channels * patch_size, bias=False)
        self.postprocess_conv = nn.Conv1d(out_channels, out_channels, 1, bias=False)
        nn.init.zeros_(self.preprocess_conv.weight)
        nn.init.zeros_(self.postprocess_conv.weight)
        self.gradient_checkpointing = False
        self._rotary_cache: Any = None  # ((length, device), table) of the latest call; never saved

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """Reads the constructor arguments from a configuration, also from one of diffusers' `StableAudioDiTModel`."""
        if config_dict.get("_class_name") == "StableAudioDiTModel":
            config_dict = config_dict | {"norm_bias": True}
        return super().extract_init_dict(config_dict, **kwargs)

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        global_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        projected_context: Sequence[Context | None] | None = None,
        projected_global: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predicts the velocity of noisy latents.

        Args:
            hidden_states: noisy latents `(B, in_channels, L)`; L at most `sample_size` and a multiple of
                `patch_size`.
            timestep: continuous time t in [0, 1], `(B,)`, floating point. Give it in float32 even to a half-precision
                model: its Fourier features are computed in float32, and bfloat16 cannot tell t = 0.999 from t = 1.
            encoder_hidden_states: text and timing tokens `(B', S, cross_attention_input_dim)` of the last B' <= B
                items. The others have none, which gives the same result as zeros and costs nothing. None: no item has
                any.
            global_hidden_states: timing of the whole item `(B, 1, global_states_input_dim)`.
            encoder_attention_mask: boolean `(B', S)`, True = attend; masked tokens have the same effect as missing
                ones. Or `(B', 1 + L / patch_size, S)`: what the global token and each latent token attend to.
            attention_mask: boolean `(B, L)`, True = attend. Masked frames are zeroed; patches that are masked as a
                whole are hidden from attention.
            projected_context: `project_context(encoder_hidden_states)`, to compute it once for many steps.
            projected_global: `project_global(global_hidden_states)`, likewise.
            return_dict: whether to return an output object or a plain tuple.

        Returns:
            An output whose `.sample` is `(B, out_channels, L)`, or the tuple `(sample,)`.

        Raises:
            ValueError: a shape or dtype other than the above. The values of `timestep` are not checked, since that
                would stall the device.
        """
        self._check_inputs(hidden_states, timestep, encoder_hidden_states, global_hidden_states)
        if encoder_hidden_states is not None:
            shape: tuple[int, ...] = encoder_hidden_states.shape[:2]
            if encoder_attention_mask is not None and encoder_attention_mask.ndim == 3:
                shape = (shape[0], 1 + hidden_states.shape[-1] // self.config.patch_size, shape[1])
            _check_mask("encoder_attention_mask", encoder_attention_mask, shape)
        _check_mask("attention_mask", attention_mask, (hidden_states.shape[0], hidden_states.shape[-1]))

        if encoder_hidden_states is None or projected_context is None:
            context = None if encoder_hidden_states is None else self.cross_attention_proj(encoder_hidden_states)
            projected_context = [context] * len(self.transformer_blocks)
        time_features = self.time_proj(timestep).to(global_hidden_states.dtype)
        if projected_global is None:
            projected_global = self.global_proj(global_hidden_states)
        global_token = projected_global + self.timestep_proj(time_features)[:, None]
        with engine_for(self, hidden_states.device) or contextlib.nullcontext():
            sample = self._run_blocks(
                hidden_states, global_token, projected_context, encoder_attention_mask, attention_mask
            )
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _run_blocks(
        self,
        hidden_states: torch.Tensor,
        global_token: torch.Tensor,
        projected_context: Sequence[Context | None],
        encoder_attention_mask: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The velocity `(B, out_channels, L)`, given the global token `(B, 1, inner_dim)`; otherwise as `forward`."""
        if attention_mask is not None:
            hidden_states = hidden_states.masked_fill(~attention_mask[:, None], 0.0)
        tokens = self.proj_in(self._fold(self.preprocess_conv(hidden_states) + hidden_states))
        tokens = torch.cat([global_token, tokens], dim=1)  # (B, 1 + L / patch_size, inner_dim)
        attention_mask = self._token_mask(attention_mask)
        rotary_embedding = self._rotary_embedding(tokens.shape[1], tokens.device)
        for block, context in zip(self.transformer_blocks, projected_context, strict=True):
            inputs = (tokens, attention_mask, context, encoder_attention_mask, rotary_embedding)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, *inputs)
            else:
                tokens = block(*inputs)
        sample = self._unfold(self.proj_out(tokens)[:, 1:])
        return self.postprocess_conv(sample) + sample

    @apply_forward_hook  # moves an offloaded model to its device
    def project_context(self, encoder_hidden_states: torch.Tensor) -> list[Context]:
        """Keys and values of the cross-attention of every block, for `forward`.

        Args:
            encoder_hidden_states: as in `forward`.
        """
        context = self.cross_attention_proj(encoder_hidden_states)
        return [cast(DiTBlock, block).attn2.project_context(context) for block in self.transformer_blocks]

    @apply_forward_hook
    def project_global(self, global_hidden_states: torch.Tensor) -> torch.Tensor:
        """The timing's part of the global token, `(B, 1, inner_dim)`, for `forward`.

        Args:
            global_hidden_states: as in `forward`.
        """
        return self.global_proj(global_hidden_states)

    def _fold(self, latents: torch.Tensor) -> torch.Tensor:
        """`(B, C, L)` to tokens `(B, L / p, C * p)`, the p neighbouring frames of a channel side by side."""
        return latents.unflatten(-1, (-1, self.config.patch_size)).transpose(1, 2).flatten(2)

    def _unfold(self, tokens: torch.Tensor) -> torch.Tensor:
        """The inverse of `_fold`."""
        return tokens.unflatten(-1, (-1, self.config.patch_size)).transpose(1, 2).flatten(2)

    def _token_mask(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Mask over frames `(B, L)` to mask over tokens `(B, 1 + L / p)`; the global token is always attended to."""
        if mask is None:
            return None
        mask = mask.unflatten(-1, (-1, self.config.patch_size)).any(dim=-1)
        return torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)

    def _rotary_embedding(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The rotary table for `length` tokens, kept for the next call."""
        dim = self.config.attention_head_dim // 2
        if torch.compiler.is_compiling():  # a graph's own tensor must not outlive it
            return rotary_table(length, dim, device)
        key = (length, device)
        cached = self._rotary_cache
        if cached is None or cached[0] != key:
            with torch.inference_mode(False):  # training may follow generation and reuse the table
                cached = self._rotary_cache = (key, rotary_table(length, dim, device))
        return cached[1]

    def _check_inputs(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        global_hidden_states: torch.Tensor,
    ) -> None:
        """Raises ValueError for shapes and dtypes that `forward` does not accept."""
        config = self.config
        if hidden_states.ndim != 3 or hidden_states.shape[1] != config.in_channels:
            shape = tuple(hidden_states.shape)
            raise ValueError(f"hidden_states must be (B, in_channels={config.in_channels}, L), got shape {shape}.")
        batch_size, _, length = hidden_states.shape
        if not 0 < length <= config.sample_size or length % config.patch_size != 0:
            raise ValueError(
                f"The length of hidden_states must be in [{config.patch_size}, {config.sample_size}] frames and a "
                f"multiple of patch_size={config.patch_size}, got {length}."
            )
        if timestep.shape != (batch_size,) or not timestep.is_floating_point():
            raise ValueError(
                f"timestep must be a floating-point tensor of shape ({batch_size},) with values in [0, 1], "
                f"got shape {tuple(timestep.shape)} and dtype {timestep.dtype}."
            )
        if encoder_hidden_states is not None:
            shape, dim = tuple(encoder_hidden_states.shape), config.cross_attention_input_dim
            if len(shape) != 3 or not 0 < shape[0] <= batch_size or shape[2] != dim:
                raise ValueError(
                    f"encoder_hidden_states must be (at most {batch_size}, S, cross_attention_input_dim={dim}), "
                    f"got shape {shape}."
                )
        shape, dim = tuple(global_hidden_states.shape), config.global_states_input_dim
        if shape != (batch_size, 1, dim):
            raise ValueError(
                f"global_hidden_states must be ({batch_size}, 1, global_states_input_dim={dim}), got shape {shape}."
            )


def _two_layers(input_dim: int, output_dim: int, bias: bool) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(
        nn.Linear(input_dim, output_dim, bias=bias), nn.SiLU(), nn.Linear(output_dim, output_dim, bias=bias)
    )


def _check_mask(name: str, mask: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the mask is None or boolean and of the given shape."""
    if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
        raise ValueError(
            f"{name} must be a boolean tensor (True = attend) of shape {tuple(shape)}, "
            f"got dtype {mask.dtype} and shape {tuple(mask.shape)}."
        )


def _check_config(config) -> None:
    """Raises ValueError for sizes that are out of range or don't fit each other."""
    widths = ("in_channels", "out_channels", "cross_attention_dim", "cross_attention_input_dim")
    check_integers(config, *widths, "global_states_input_dim", "patch_size")
    check_integers(config, "num_layers", "num_attention_heads", "num_key_value_attention_heads", high=2**10)
    check_integers(config, "time_proj_dim", low=2)
    check_integers(config, "attention_head_dim", low=4)
    check_integers(config, "sample_size", high=2**20)
    check_booleans(config, "norm_bias")
    if config.qk_norm not in (None, "layer_norm"):
        raise ValueError(f"qk_norm must be 'layer_norm' or None, got {config.qk_norm!r}.")
    if config.attention_head_dim % 4 != 0:
        raise ValueError(f"attention_head_dim must be a multiple of 4, got {config.attention_head_dim}.")
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_attention_heads
    if heads % key_value_heads != 0:
        raise ValueError(
            f"num_key_value_attention_heads must divide num_attention_heads={heads}, got {key_value_heads}."
        )
    if config.time_proj_dim % 2 != 0:
        raise ValueError(f"time_proj_dim must be even, got {config.time_proj_dim}.")
    if config.sample_size % config.patch_size != 0:
        raise ValueError(
            f"sample_size must be a multiple of patch_size={config.patch_size}, got {config.sample_size}."
        )
