"""Translates state dicts between other tools and ours.

A list of rules says which tensor of theirs corresponds to which of ours, and in which shape. It is used in both
directions. This module is independent of models and files; the rules are in `models/stable_audio_tools_keys.py` and
`convert/laion_clap.py`.

Contents: `Rule` and `KeyMap`; `to_ours`, `unknown_keys` and `to_theirs`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch

CONSTANT_TOLERANCE = 5e-3  # relative; checkpoints may store constants in half precision


class Rule(NamedTuple):
    """One tensor of theirs and the tensors of ours with the same values.

    Args:
        theirs: its key.
        ours: our keys; if there are several, their tensor is ours stacked along the first dimension.
        shape: "same", or the shape of their tensor: "flat" `(C,)` for our `(1, C, 1)`, "column" `(C, 1)` for our
            `(C,)`.
    """

    theirs: str
    ours: tuple[str, ...]
    shape: str = "same"

    def shape_of_theirs(self, shapes: Mapping[str, torch.Size]) -> torch.Size:
        """The shape of their tensor, given the shapes of ours."""
        first = shapes[self.ours[0]]
        if self.shape == "flat":
            return torch.Size([first.numel()])
        if self.shape == "column":
            return torch.Size([*first, 1])
        return torch.Size([sum(shapes[key][0] for key in self.ours), *first[1:]]) if first else first


class KeyMap(NamedTuple):
    """All tensors of a model under both names.

    Args:
        rules: they contain every tensor of ours.
        constants: further tensors of theirs, with the only values that our architecture supports.
    """

    rules: list[Rule]
    constants: dict[str, torch.Tensor]


def to_ours(
    key_map: KeyMap, theirs: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Translates their tensors to ours.

    Args:
        key_map: the map between the names.
        theirs: their state dict; other keys are ignored, see `unknown_keys`.
        shapes: of all our tensors.

    Returns:
        Our state dict, and a description of each tensor of theirs that is missing, has another shape, or is a constant
        with another value. Constants may be missing.
    """
    ours, problems = {}, []
    for rule in key_map.rules:
        expected = rule.shape_of_theirs(shapes)
        if rule.theirs not in theirs:
            problems.append(f"missing {rule.theirs}")
        elif theirs[rule.theirs].shape != expected:
            found = tuple(theirs[rule.theirs].shape)
            problems.append(f"{rule.theirs} has shape {found} and not {tuple(expected)}")
        elif len(rule.ours) == 1:
            ours[rule.ours[0]] = theirs[rule.theirs].reshape(shapes[rule.ours[0]])
        else:
            parts = theirs[rule.theirs].split([shapes[key][0] for key in rule.ours])
            ours |= {key: part.contiguous() for key, part in zip(rule.ours, parts, strict=True)}
    for key, constant in key_map.constants.items():
        if key in theirs and not _is_same(theirs[key].float(), constant):
            problems.append(f"{key} holds values that our architecture does not have")
    return ours, problems


def unknown_keys(theirs: Mapping[str, torch.Tensor], *key_maps: KeyMap) -> list[str]:
    """Describes each tensor of theirs that is in none of the maps."""
    known = {rule.theirs for key_map in key_maps for rule in key_map.rules}
    known = known.union(*(key_map.constants for key_map in key_maps))
    return [f"unknown {key}" for key in theirs if key not in known]


def to_theirs(key_map: KeyMap, ours: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translates our state dict to theirs."""
    shapes = {key: tensor.shape for key, tensor in ours.items()}
    theirs = {}
    for rule in key_map.rules:
        parts = [ours[key] for key in rule.ours]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        theirs[rule.theirs] = tensor.reshape(rule.shape_of_theirs(shapes)).contiguous()
    return theirs | key_map.constants


def _is_same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether a constant has its value, up to rounding to half precision."""
    return found.shape == expected.shape and torch.allclose(found, expected, CONSTANT_TOLERANCE, 1e-7)
