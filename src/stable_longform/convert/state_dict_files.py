"""Reads checkpoint files of other tools, and finds the model in training checkpoints."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

TORCH_FILES = (b"PK", b"\x80")  # the first bytes of torch's files: a zip or a pickle
# In stable-audio-tools' training checkpoints: the prefix of a model, of its average, and of what was averaged.
TRAININGS = (
    ("diffusion.", "diffusion_ema.ema_model.", "model."),
    ("autoencoder.", "autoencoder_ema.ema_model.", ""),
)
# Parts of these checkpoints that do not belong to the model: the average's bookkeeping, discriminator, losses.
TRAINING_ONLY = (
    "diffusion_ema.",
    "autoencoder_ema.",
    "discriminator.",
    "losses.",
    "losses_gen.",
    "losses_disc.",
    "sdstft.",
    "lrstft.",
    "mrmel.",
    "hubert.",
    "teacher_model.",
    "eval_losses.",
)


def read_state_dict(path: str | os.PathLike, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """Reads a state dict from a `.safetensors` file or from a file of torch.

    Args:
        path: the file, with a state dict or an object that holds one as "state_dict".
        allow_pickle: also read files that hold more than tensors, which can run any code when they are opened.

    Returns:
        Tensors on the CPU by their keys.

    Raises:
        ValueError: the file is broken or holds something else.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    with path.open("rb") as file:
        if not file.read(4).startswith(TORCH_FILES):
            raise ValueError(f"{path} is not a checkpoint: it is neither a safetensors file nor one of torch's.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, pickle.UnpicklingError) and not allow_pickle:
            raise ValueError(
                f"{path} is broken or holds more than tensors, and opening it could run any code. "
                "If you trust its origin, allow pickle (--allow-pickle)."
            ) from error
        raise ValueError(f"{path} is not a checkpoint: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    is_state_dict = isinstance(content, Mapping) and content
    if not is_state_dict or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise ValueError(f"{path} holds no state dict.")
    return {key: tensor.detach() for key, tensor in content.items()}


def unwrap_training(state_dict: Mapping[str, torch.Tensor], use_ema: bool | None = None) -> dict[str, torch.Tensor]:
    """Extracts the model from a training checkpoint of stable-audio-tools, with the keys of an exported one.

    Args:
        state_dict: of a training checkpoint, or of a model, which is returned unchanged.
        use_ema: take the moving average of the weights; None: if there is one.

    Returns:
        The state dict. Keys that belong neither to the model nor to the known parts of a training are kept.

    Raises:
        ValueError: `use_ema` is set, but there is no average.
    """
    for prefix, ema_prefix, target in TRAININGS:
        if not any(key.startswith(prefix) for key in state_dict):
            continue
        has_ema = any(key.startswith(ema_prefix) for key in state_dict)
        if use_ema and not has_ema:
            raise ValueError(f"The checkpoint holds no moving average: no key starts with {ema_prefix}")
        average = {}
        if has_ema and use_ema is not False:
            average = {target + key.removeprefix(ema_prefix): key for key in state_dict if key.startswith(ema_prefix)}
        kept = [key for key in state_dict if not key.startswith(TRAINING_ONLY)]
        model = {key.removeprefix(prefix): state_dict[key] for key in kept}
        return model | {name: state_dict[key] for name, key in average.items()}
    if use_ema:
        raise ValueError("The checkpoint holds no moving average: it is not one of a training.")
    return dict(state_dict)
