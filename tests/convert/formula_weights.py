"""Tensors made from their names, the same on every machine: what golden files need not hold."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch


def formula_tensor(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal numbers, seeded by the name; numpy promises that its legacy generator never changes."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def formula_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights of a network that keeps its signals in range: scales near one, matrices by their fan-in."""
    weights = {}
    for key, shape in shapes.items():
        values = formula_tensor(key, shape)
        if key.endswith(("gamma", "weight_g", "running_var", "norm.weight", "norm1.weight", "norm2.weight")):
            values = 1 + 0.2 * values.tanh()
        elif key.endswith(("timestep_features.weight", "0.weights")):
            values = 0.5 * values
        elif len(shape) > 1:
            values = values / np.sqrt(np.prod(shape[1:]))
        else:
            values = 0.2 * values
        weights[key] = values
    return weights
