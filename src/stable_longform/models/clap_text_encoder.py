"""The text encoder: the text tower of a CLAP model, read at its next-to-last layer.

Conventions: token ids and masks are `(B, S)`; features are `(B, S, hidden_size)`.

References: Evans et al., "Long-form music generation with latent diffusion", arXiv 2404.10301, §2.4. Wu et al.,
"Large-scale contrastive language-audio pretraining", arXiv 2211.06687. Liu et al., "RoBERTa", arXiv 1907.11692.
"""

import os
import threading
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from transformers import ClapModel, ClapTextConfig, ClapTextModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput

from stable_longform.models.checked_loading import CheckedModelMixin, check_integers, check_numbers
from stable_longform.utils.model_sources import load_whole

MAX_TEXT_LENGTH = 4096  # tokens; a tokenizer without a limit reports an astronomically large one
TOKENIZER_LOCK = threading.Lock()

# The fields of our configuration that describe the RoBERTa model, named as in transformers' ClapTextConfig.
TEXT_CONFIG_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "pad_token_id",
)


class ClapTextEncoder(CheckedModelMixin, ModelMixin, ConfigMixin):
    """Features of a prompt: a hidden layer of CLAP's RoBERTa.

    Paper: §2.4, "the next-to-last layer of the text encoder". The defaults are RoBERTa base with 124,645,632
    parameters. The layers above `feature_layer` and the pooler are kept in the checkpoint but never computed.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the features.
        num_hidden_layers: number of layers.
        num_attention_heads: number of heads per layer, a divisor of `hidden_size`.
        intermediate_size: width of the feed-forward layers.
        max_position_embeddings: size of the position table; the longest input is
            `max_position_embeddings - pad_token_id - 1` tokens.
        type_vocab_size: number of token types.
        layer_norm_eps: epsilon of the layer norms.
        hidden_act: activation of the feed-forward layers, by its transformers name.
        hidden_dropout_prob: dropout of the hidden states in training, in [0, 1).
        attention_probs_dropout_prob: dropout of the attention probabilities in training, in [0, 1).
        pad_token_id: id of the padding token.
        feature_layer: which hidden state is returned, counted from the end: -1 is the last layer's output,
            -(num_hidden_layers + 1) the embeddings.
        max_length: number of tokens to which prompts are padded and cut. The model itself accepts longer input.

    Raises:
        ValueError: a value out of range, or sizes that don't fit each other.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ClapTextLayer"]
    _repeated_blocks = ["ClapTextLayer"]
    _skip_layerwise_casting_patterns = ["embeddings", "LayerNorm"]

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 50265,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 514,
        type_vocab_size: int = 1,
        layer_norm_eps: float = 1e-5,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        pad_token_id: int = 1,
        feature_layer: int = -2,
        max_length: int = 77,
    ):
        super().__init__()
        check_integers(self.config, "hidden_size", "intermediate_size", "type_vocab_size")
        check_integers(self.config, "num_hidden_layers", "num_attention_heads", high=2**10)
        check_integers(self.config, "vocab_size", "max_position_embeddings", "max_length", high=2**24)
        check_integers(self.config, "pad_token_id", low=0, high=2**24)
        check_integers(self.config, "feature_layer", low=-(2**10) - 1, high=-1)
        check_numbers(
            self.config, "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", low=0, high=1
        )
        if not isinstance(hidden_act, str) or hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {', '.join(ACT2FN)}, got {hidden_act!r}.")
        if hidden_size % num_attention_heads != 0:
            raise ValueError(f"num_attention_heads must divide hidden_size={hidden_size}, got {num_attention_heads}.")
        if not -(num_hidden_layers + 1) <= feature_layer <= -1:
            raise ValueError(f"feature_layer must be in [{-(num_hidden_layers + 1)}, -1], got {feature_layer}.")
        longest = max_position_embeddings - pad_token_id - 1
        if not 0 < max_length <= longest:
            raise ValueError(f"max_length must be in [1, {longest}] tokens, got {max_length}.")
        self.text_model = ClapTextModel(ClapTextConfig(**{name: self.config[name] for name in TEXT_CONFIG_FIELDS}))

    @classmethod
    def from_clap(
        cls, clap: ClapModel | str | os.PathLike, feature_layer: int = -2, max_length: int = 77
    ) -> "ClapTextEncoder":
        """Copies the text tower of a transformers `ClapModel`.

        Args:
            clap: the model, or its folder or Hub id.
            feature_layer: see the class.
            max_length: see the class.

        Raises:
            ValueError: there is no such folder or Hub id, it holds another model, or weights are missing.

        Returns:
            The encoder, in evaluation mode, with the device and dtype of the CLAP model.
        """
        if not isinstance(clap, ClapModel):
            clap = load_whole(ClapModel, clap)
        text_config = clap.config.text_config
        fields = {name: getattr(text_config, name) for name in TEXT_CONFIG_FIELDS}
        encoder = cls(**fields, feature_layer=feature_layer, max_length=max_length)
        encoder.text_model.load_state_dict(clap.text_model.state_dict())
        return encoder.to(device=clap.device, dtype=clap.dtype).eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool = True
    ) -> BaseModelOutput | tuple[torch.Tensor]:
        """Encodes token ids.

        Args:
            input_ids: `(B, S)`, integers in [0, vocab_size).
            attention_mask: `(B, S)`, boolean or integer, non-zero = attend, as tokenizers give it; None attends to
                every token.
            return_dict: whether to return an output object or a plain tuple.

        Returns:
            An output whose `.last_hidden_state` is the output of layer `feature_layer`, `(B, S, hidden_size)`, or a
            tuple with only this tensor. Features of padding tokens are not zeroed.

        Raises:
            ValueError: an input is not as described above, or longer than the position table.
        """
        self._check_input_ids(input_ids)
        embeddings = self.text_model.embeddings(input_ids)
        additive_mask = None
        if attention_mask is not None:
            _check_attention_mask(attention_mask, (input_ids.shape[0], input_ids.shape[1]))
            additive_mask = torch.zeros(input_ids.shape, dtype=embeddings.dtype, device=embeddings.device)
            additive_mask.masked_fill_(~attention_mask.bool(), torch.finfo(embeddings.dtype).min)
            additive_mask = additive_mask[:, None, None, :]  # (B, 1, 1, S)

        hidden_states = embeddings
        num_layers = self.config.num_hidden_layers + 1 + self.config.feature_layer
        for layer in self.text_model.encoder.layer[:num_layers]:  # each checkpoints itself when that is enabled
            hidden_states = layer(hidden_states, additive_mask)
        return BaseModelOutput(last_hidden_state=hidden_states) if return_dict else (hidden_states,)

    def _check_input_ids(self, input_ids: torch.Tensor) -> None:
        """Raises ValueError unless the ids are `(B, S)` integers of the vocabulary and S is not too large."""
        if input_ids.ndim != 2 or input_ids.dtype not in (torch.int32, torch.int64) or input_ids.numel() == 0:
            raise ValueError(
                "input_ids must be a non-empty integer tensor of shape (B, S), "
                f"got shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}."
            )
        longest = self.config.max_position_embeddings - self.config.pad_token_id - 1
        if input_ids.shape[1] > longest:
            raise ValueError(f"input_ids must have at most {longest} tokens per item, got {input_ids.shape[1]}.")
        low, high = input_ids.aminmax()
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"input_ids must be in [0, {self.config.vocab_size}), got values from {int(low)} to {int(high)}."
            )


@torch.no_grad()
def encode_texts(
    text_encoder: PreTrainedModel, tokenizer, texts: Sequence[str], max_length: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the features of texts and the boolean mask of their real tokens.

    Args:
        text_encoder: `ClapTextEncoder`, or a transformers text encoder.
        tokenizer: of the text encoder.
        texts: B of them.
        max_length: number of tokens to which each is padded or cut; None: see `text_length`.

    Returns:
        `(features (B, max_length, dim), mask (B, max_length))`. Features of padding tokens are not zeroed.
    """
    if max_length is None:
        max_length = text_length(text_encoder, tokenizer)
    input_ids, mask, _ = tokenize_texts(tokenizer, texts, max_length)
    input_ids, mask = input_ids.to(text_encoder.device), mask.to(text_encoder.device)
    return text_encoder(input_ids, attention_mask=mask).last_hidden_state, mask


def text_length(text_encoder: torch.nn.Module, tokenizer) -> int:
    """Number of tokens to which texts are padded and cut: `config.max_length` of our text encoder, or another
    encoder's `tokenizer.model_max_length`.

    Raises:
        ValueError: the tokenizer has no limit.
    """
    length = text_encoder.config.get("max_length") if isinstance(text_encoder, ConfigMixin) else None
    length = tokenizer.model_max_length if length is None else length
    if length > MAX_TEXT_LENGTH:
        raise ValueError(f"tokenizer.model_max_length must be at most {MAX_TEXT_LENGTH} tokens, got {length}: set it.")
    return length


def tokenize_texts(tokenizer, texts: Sequence[str], max_length: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Token ids of texts, padded at the end or cut to one length; special tokens at the end of a text are kept.

    Only one thread at a time runs this: tokenizers of transformers change their own settings when they are called.

    Args:
        tokenizer: of transformers, fast or not.
        texts: B of them.
        max_length: number of tokens of each row.

    Returns:
        `(input_ids (B, max_length), mask (B, max_length), num_tokens)`: int64; boolean, True for real tokens; and the
        number of tokens of each text before it is cut.

    Raises:
        ValueError: a tokenizer without a padding token, whose `model_max_length` is not a number, or that fails.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError("The tokenizer has no padding token: set pad_token in its tokenizer_config.json.")
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise ValueError(f"tokenizer.model_max_length must be a number, got {tokenizer.model_max_length!r}.")
    with TOKENIZER_LOCK:
        try:
            tokens = tokenizer(list(texts), return_special_tokens_mask=True, verbose=False)
        except Exception as error:  # the type that tokenizers raises
            raise ValueError(f"The tokenizer fails: {error}.") from error
    input_ids = torch.full((len(texts), max_length), tokenizer.pad_token_id)
    mask = torch.zeros(input_ids.shape, dtype=torch.bool)
    for row, (ids, is_special) in enumerate(zip(tokens.input_ids, tokens.special_tokens_mask, strict=True)):
        num_last = next((i for i, special in enumerate(reversed(is_special)) if not special), len(ids))
        if len(ids) > max_length:
            ids = ids[: max_length - num_last] + ids[len(ids) - num_last :]
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = True
    return input_ids, mask, [len(ids) for ids in tokens.input_ids]


def _check_attention_mask(mask: torch.Tensor, shape: tuple[int, int]) -> None:
    """Raises ValueError unless the mask is boolean or integer and of the given shape."""
    if mask.is_floating_point() or mask.is_complex() or mask.shape != shape:
        raise ValueError(
            f"attention_mask must be a boolean or integer tensor of shape {tuple(shape)}, "
            f"got dtype {mask.dtype} and shape {tuple(mask.shape)}."
        )
