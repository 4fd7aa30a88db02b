"""Embeds the timing of a piece of music: where it starts and how long the whole is.

Conventions: times are in seconds. All arithmetic up to the last linear layer is in float32, because bfloat16 rounds
300 seconds to the nearest 2. State dict keys and configuration fields are those of diffusers'
`StableAudioProjectionModel`, whose folders open here. Like that model, ours also holds the projection of the text
features to the width of the timing vectors, if the checkpoint has one.

References: Evans et al., "Long-form music generation with latent diffusion", arXiv 2404.10301, §2.2; "Fast
timing-conditioned latent audio diffusion", arXiv 2402.04825, §3.2.
"""

import math
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import nn

from stable_longform.models.checked_loading import CheckedModelMixin, check_booleans, check_integers, check_numbers


@dataclass
class TimingConditionerOutput(BaseOutput):
    """Embedded timing of a batch.

    Args:
        seconds_start_hidden_states: `(B, 1, conditioning_dim)`; absent when the model does not know the start.
        seconds_total_hidden_states: `(B, 1, conditioning_dim)`.
    """

    seconds_start_hidden_states: torch.Tensor | None
    seconds_total_hidden_states: torch.Tensor | None = None  # a default, since accelerate rebuilds outputs from a dict

    @property
    def encoder_hidden_states(self) -> torch.Tensor:
        """Start and total as two cross-attention tokens, `(B, 2, conditioning_dim)`, which follow the text tokens."""
        return torch.cat(self.to_tuple(), dim=1)  # only one token if the start is absent

    @property
    def global_hidden_states(self) -> torch.Tensor:
        """Start and total side by side in one vector, `(B, 1, 2 * conditioning_dim)`."""
        return torch.cat(self.to_tuple(), dim=-1)


class LearnedPositionalEmbedding(nn.Module):
    """A number with its trainable Fourier features: [x, sin(2 pi x w), cos(2 pi x w)], always in float32.

    Args:
        dim: number of Fourier features, even.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Maps `(B,)` to `(B, 1 + dim)` in float32."""
        numbers = numbers.float()[:, None]
        angles = 2 * math.pi * numbers * self.weights.float()
        return torch.cat([numbers, angles.sin(), angles.cos()], dim=-1)


class NumberConditioner(nn.Module):
    """Embeds numbers of a known range.

    Args:
        conditioning_dim: width of the embedding.
        min_value: smallest number, mapped to 0.
        max_value: largest number, mapped to 1.
        internal_dim: number of Fourier features, even.
    """

    def __init__(self, conditioning_dim: int, min_value: float, max_value: float, internal_dim: int):
        super().__init__()
        self.min_value = min_value
        self.max_value = max_value
        self.time_positional_embedding = nn.Sequential(
            LearnedPositionalEmbedding(internal_dim), nn.Linear(internal_dim + 1, conditioning_dim)
        )

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Maps `(B,)` to `(B, 1, conditioning_dim)` in the dtype of the linear layer."""
        features, linear = self.time_positional_embedding
        normalized = (numbers.float() - self.min_value) / (self.max_value - self.min_value)
        return linear(features(normalized).to(linear.weight.dtype))[:, None]


class TimingConditioner(CheckedModelMixin, ModelMixin, ConfigMixin):
    """Embeds where a window starts and how long the whole piece is.

    Paper: §2.2; the two values and their ranges are those of the "seconds_start" and "seconds_total" conditioners of
    the authors' configuration.

    Args:
        conditioning_dim: width of each embedding.
        min_value: smallest accepted time, in seconds.
        max_value: largest accepted time, in seconds.
        internal_dim: number of Fourier features, even.
        use_seconds_start: whether the model knows where a window starts. Not in the paper, whose model does; others,
            like Stable Audio Open Small, only know the total.
        text_encoder_dim: width of the text encoder's features. If it differs from `conditioning_dim`, the model has a
            linear `text_projection`. None: the same width.

    Raises:
        ValueError: a value has the wrong type or is out of range, `internal_dim` is odd, or `max_value` is not greater
            than `min_value`.
    """

    # The embedding is tiny and needs its precision.
    _skip_layerwise_casting_patterns = ["time_positional_embedding"]
    _class_names_of_diffusers = ("StableAudioProjectionModel",)

    @register_to_config
    def __init__(
        self,
        conditioning_dim: int = 768,
        min_value: float = 0,
        max_value: float = 512,
        internal_dim: int = 256,
        use_seconds_start: bool = True,
        text_encoder_dim: int | None = None,
    ):
        super().__init__()
        check_integers(self.config, "conditioning_dim", *([] if text_encoder_dim is None else ["text_encoder_dim"]))
        check_integers(self.config, "internal_dim", low=2)
        check_numbers(self.config, "min_value", "max_value", low=-1e9, high=1e9)
        check_booleans(self.config, "use_seconds_start")
        if internal_dim % 2 != 0:
            raise ValueError(f"internal_dim must be even, got {internal_dim}.")
        if not max_value > min_value:
            raise ValueError(f"max_value must be greater than min_value={min_value}, got {max_value}.")
        self.text_projection = None
        if text_encoder_dim not in (None, conditioning_dim):
            self.text_projection = nn.Linear(text_encoder_dim, conditioning_dim)
        self.start_number_conditioner = None
        if use_seconds_start:
            self.start_number_conditioner = NumberConditioner(conditioning_dim, min_value, max_value, internal_dim)
        self.end_number_conditioner = NumberConditioner(conditioning_dim, min_value, max_value, internal_dim)

    def forward(
        self, seconds_start: torch.Tensor, seconds_total: torch.Tensor, return_dict: bool = True
    ) -> TimingConditionerOutput | tuple[torch.Tensor, ...]:
        """Embeds a batch of timings.

        Args:
            seconds_start: start of the window within the piece, in seconds, `(B,)`, real or integer, in
                [`min_value`, `max_value`]; 0 if the model does not know the start. Give real values in float32 or
                float64 even to a half-precision model.
            seconds_total: duration of the whole piece, in seconds; as `seconds_start`.
            return_dict: whether to return an output object or a plain tuple.

        Returns:
            `TimingConditionerOutput`, or the tuple of its `(B, 1, conditioning_dim)` tensors.

        Raises:
            ValueError: a tensor that is not 1-D, sizes that differ, a complex or boolean dtype, a value outside
                [`min_value`, `max_value`], NaN included, or a start that the model does not know.
        """
        self._check_seconds("seconds_start", seconds_start)
        self._check_seconds("seconds_total", seconds_total)
        if seconds_start.shape != seconds_total.shape:
            raise ValueError(
                "seconds_start and seconds_total must have the same number of values, "
                f"got {seconds_start.shape[0]} and {seconds_total.shape[0]}."
            )
        start = None
        if self.start_number_conditioner is not None:
            start = self.start_number_conditioner(seconds_start)
        elif seconds_start.any():
            raise ValueError(
                f"This model has no condition for the start: seconds_start must be 0, got {seconds_start.tolist()}."
            )
        output = TimingConditionerOutput(start, self.end_number_conditioner(seconds_total))
        return output if return_dict else output.to_tuple()

    def project_text(self, text_hidden_states: torch.Tensor) -> torch.Tensor:
        """Text features `(B, S, text_encoder_dim)` at the width of the timing vectors, `(B, S, conditioning_dim)`."""
        if self.text_projection is None:
            return text_hidden_states
        return self.text_projection(text_hidden_states.to(self.text_projection.weight.dtype))

    def _check_seconds(self, name: str, seconds: torch.Tensor) -> None:
        """Raises ValueError unless `seconds` is a 1-D tensor of real numbers within the range."""
        if seconds.ndim != 1 or seconds.dtype == torch.bool or seconds.is_complex():
            raise ValueError(
                f"{name} must be a tensor of real numbers of shape (B,), "
                f"got shape {tuple(seconds.shape)} and dtype {seconds.dtype}."
            )
        low, high = self.config.min_value, self.config.max_value
        is_valid = (seconds >= low) & (seconds <= high)
        if not is_valid.all():
            raise ValueError(f"{name} must be in [{low}, {high}] seconds, got {seconds[~is_valid].tolist()}.")
