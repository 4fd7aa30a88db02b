"""Reads golden_stable_audio_tools.safetensors, and makes the checkpoints whose outputs it holds."""

import json
from functools import cache
from pathlib import Path

import torch
from formula_weights import formula_weights
from safetensors import safe_open

PATH = Path(__file__).parent / "golden_stable_audio_tools.safetensors"
CASES = ("stable_audio_2_0", "total_only", "stable_audio_open_small")


@cache
def golden(case: str) -> dict[str, torch.Tensor]:
    """What the real tool computed."""
    with safe_open(PATH, "pt") as file:
        names = [name for name in file.keys() if name.startswith(f"{case}/")]
        return {name.removeprefix(f"{case}/"): file.get_tensor(name) for name in names}


def model_config(case: str) -> dict:
    """The model_config.json; a fresh copy."""
    return _metadata(case)["config"]


def state_dict(case: str) -> dict[str, torch.Tensor]:
    """The checkpoint of a diffusion model, in a fresh dictionary."""
    buffers = {
        key.removeprefix("buffers/"): value for key, value in golden(case).items() if key.startswith("buffers/")
    }
    return formula_weights(_metadata(case)["shapes"]) | buffers


def _metadata(case: str) -> dict:
    with safe_open(PATH, "pt") as file:
        return json.loads(file.metadata()[case])
