"""Converts LAION-CLAP checkpoints (RoBERTa and HTSAT) to transformers' `ClapModel`, and our text encoder back.

All sizes are read from the weights. Not converted: the fixed tables of the spectrogram, which transformers' feature
extractor computes; HTSAT's classifier; and the transforms of a loss that is off by default.

References: Wu et al., arXiv 2211.06687; Chen et al., "HTS-AT", arXiv 2202.00874.
"""

from collections.abc import Iterable, Mapping

import torch
from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig

from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.utils.key_maps import KeyMap, Rule, to_ours, to_theirs, unknown_keys

TEXT_BRANCH, AUDIO_BRANCH = "text_branch.", "audio_branch."
HEAD_DIM = 64  # channels per head of every RoBERTa
UNUSED = (
    "audio_branch.spectrogram_extractor.",
    "audio_branch.logmel_extractor.",
    "audio_branch.tscam_conv.",
    "audio_branch.head.",
    "audio_transform.",
    "text_transform.",
    "text_branch.embeddings.position_ids",
    "text_branch.embeddings.token_type_ids",
)
UNUSED_SUFFIX = ".attn_mask"  # for shifted windows; computed from the sizes
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # transformers computes these

# Names inside HTSAT: transformers' and theirs, in the order of replacement.
AUDIO_NAMES = (
    ("audio_model.audio_encoder.", AUDIO_BRANCH),
    ("batch_norm.", "bn0."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("attention.self.", "attn."),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
PROJECTION_NAMES = (("_projection.linear1.", "_projection.0."), ("_projection.linear2.", "_projection.2."))


def is_laion_clap(state_dict: Iterable[str]) -> bool:
    """Whether keys are those of a LAION-CLAP checkpoint."""
    keys = [key.removeprefix("module.") for key in state_dict]
    return any(key.startswith(TEXT_BRANCH) for key in keys) and any(key.startswith(AUDIO_BRANCH) for key in keys)


def from_laion_clap(state_dict: Mapping[str, torch.Tensor]) -> ClapModel:
    """Builds a `ClapModel` in evaluation mode.

    Args:
        state_dict: of the checkpoint, with or without the "module." of distributed training.

    Raises:
        ValueError: the models are not RoBERTa and HTSAT, or keys are missing, unknown or of another shape; the message
            lists them.
    """
    theirs = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}
    theirs = {key: tensor for key, tensor in theirs.items() if not _is_unused(key)}
    model = ClapModel(_read_config(theirs))
    weights = model.state_dict()
    key_map = _key_map(weights)
    ours, problems = to_ours(key_map, theirs, {key: tensor.shape for key, tensor in weights.items()})
    problems += unknown_keys(theirs, key_map)
    if problems:
        raise ValueError(f"{len(problems)} keys do not fit a ClapModel: {'; '.join(problems)}.")
    model.load_state_dict(weights | ours)
    return model.eval()


def text_branch_to_laion_clap(text_encoder: ClapTextEncoder) -> dict[str, torch.Tensor]:
    """The text branch as in a LAION-CLAP checkpoint; stable-audio-tools needs nothing else from it."""
    weights = {f"text_model.{key}": tensor for key, tensor in text_encoder.text_model.state_dict().items()}
    theirs = to_theirs(_key_map(weights), weights)
    return {f"module.{key}": tensor for key, tensor in theirs.items()}


def _is_unused(key: str) -> bool:
    """Whether a tensor of theirs is not a weight of a `ClapModel`."""
    return key.startswith(UNUSED) or key.endswith(UNUSED_SUFFIX)


def _key_map(ours: Iterable[str]) -> KeyMap:
    """Maps their tensors to our keys."""
    rules: list[Rule] = []
    fused: dict[str, list[str]] = {}
    for key in ours:
        if key.endswith(BUFFERS):
            continue
        theirs = key.replace("text_model.", TEXT_BRANCH) if key.startswith("text_model.") else key
        for name, replacement in AUDIO_NAMES if key.startswith("audio_model.") else PROJECTION_NAMES:
            theirs = theirs.replace(name, replacement)
        for name in ("query", "key", "value") if key.startswith("audio_model.") else ():
            if f".attn.{name}." in theirs:
                fused.setdefault(theirs.replace(f".{name}.", ".qkv."), []).append(key)
                break
        else:
            rules.append(Rule(theirs, (key,)))
    return KeyMap(rules + [Rule(theirs, tuple(keys)) for theirs, keys in fused.items()], {})


def _read_config(theirs: Mapping[str, torch.Tensor]) -> ClapConfig:
    """Reads the sizes of both towers from the weights."""

    def shape(key: str) -> torch.Size:
        if key not in theirs:
            raise ValueError(f"This is not a LAION-CLAP with RoBERTa and HTSAT: it has no {key}.")
        return theirs[key].shape

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in theirs if key.startswith(prefix)})

    embeddings, layers = "text_branch.embeddings.", "text_branch.encoder.layer."
    vocab_size, hidden_size = shape(f"{embeddings}word_embeddings.weight")
    if hidden_size % HEAD_DIM:
        raise ValueError(f"The width of RoBERTa must be a multiple of {HEAD_DIM}, got {hidden_size}.")
    projection_dim = shape("text_projection.0.weight")[0]
    text = ClapTextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=count(layers),
        num_attention_heads=hidden_size // HEAD_DIM,
        intermediate_size=shape(f"{layers}0.intermediate.dense.weight")[0],
        max_position_embeddings=shape(f"{embeddings}position_embeddings.weight")[0],
        type_vocab_size=shape(f"{embeddings}token_type_embeddings.weight")[0],
        layer_norm_eps=1e-5,
        projection_dim=projection_dim,
    )
    num_stages = count("audio_branch.layers.")
    table = "audio_branch.layers.{}.blocks.0.attn.relative_position_bias_table"
    width = shape("audio_branch.patch_embed.proj.weight")[0]
    has_fusion = "audio_branch.patch_embed.mel_conv2d.weight" in theirs
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=width,
        hidden_size=width * 2 ** (num_stages - 1),
        depths=[count(f"audio_branch.layers.{stage}.blocks.") for stage in range(num_stages)],
        num_attention_heads=[shape(table.format(stage))[1] for stage in range(num_stages)],
        num_hidden_layers=num_stages,
        num_mel_bins=shape("audio_branch.bn0.weight")[0],
        window_size=(round(shape(table.format(0))[0] ** 0.5) + 1) // 2,
        enable_fusion=has_fusion,
        fusion_type="aff_2d" if has_fusion else None,
        hidden_dropout_prob=0.0,  # as in their training, whose stochastic depth is 0.1
        drop_path_rate=0.1,
        projection_dim=projection_dim,
    )
    return ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=projection_dim)
