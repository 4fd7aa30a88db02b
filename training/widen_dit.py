"""Widens a trained transformer: more attention heads, and more channels in proportion, for almost the same function.

    python training/widen_dit.py --dit runs/dit/dit --output_dir runs/wide --model.num_attention_heads 6 \
        --model.num_key_value_attention_heads 3
    python training/train_dit.py --init_from runs/wide ...

A wider model then continues from what the narrow one has learned, instead of from nothing. The old weights become the
first rows and columns of the new ones. What the new channels add is zero at first, so only the layer norms change the
function: the more, the further the mean of a token is from zero. Not in the paper; Chen et al., "Net2Net", arXiv
1511.05641, has the idea.
"""

import logging
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.training_utils import shared_options as shared
from stable_longform.training_utils.config import launch
from stable_longform.training_utils.items import seed_generators
from stable_longform.training_utils.options import ArgumentsOf, build_model
from stable_longform.training_utils.runs import STAGE_FILE
from stable_longform.utils.files import atomic_folder

logger = logging.getLogger(__name__)

WIDTHS = ("num_attention_heads", "num_key_value_attention_heads", "cross_attention_dim")
BLOCK_NORMS = ("norm1.weight", "norm2.weight", "norm3.weight")
INTO_TOKENS = ("proj_in", "global_proj.2", "timestep_proj.2", "to_out.0", "ff.net.2")
INTO_CONTEXT = ("cross_attention_proj.2", "attn2.to_k", "attn2.to_v")


@dataclass(frozen=True)
class Config:
    """The new weights are drawn with `seed`."""

    dit: Annotated[str, "The `dit` folder of a run, or folder of a checkpoint."]
    output_dir: shared.OutputDir
    model: Annotated[
        dict,
        ArgumentsOf(DiTTransformer1D),
        f"The new widths: {', '.join(WIDTHS)}; what is not given stays.",
    ] = field(default_factory=dict)
    seed: shared.Seed = 0


def main(config: Config) -> None:
    """Reads, widens, saves."""
    narrow = DiTTransformer1D.from_pretrained(config.dit, subfolder="transformer")
    timing_conditioner = TimingConditioner.from_pretrained(config.dit, subfolder="timing_conditioner")
    seed_generators(config.seed, 0)
    options = {name: value for name, value in narrow.config.items() if not name.startswith("_")}
    wide = build_model(DiTTransformer1D, options | config.model, "model")
    widen(narrow, wide)
    with atomic_folder(config.output_dir) as folder:
        wide.save_pretrained(folder / "transformer")
        timing_conditioner.save_pretrained(folder / "timing_conditioner")
        if (history := Path(config.dit) / STAGE_FILE).is_file():
            shutil.copy(history, folder)
    logger.info("From %d to %d parameters.", *(sum(p.numel() for p in model.parameters()) for model in (narrow, wide)))


@torch.no_grad()
def widen(narrow: DiTTransformer1D, wide: DiTTransformer1D) -> None:
    """Gives a freshly initialised wide transformer the weights of a narrow one.

    Raises:
        ValueError: the two differ in more than `WIDTHS`, the wide one is not at least as wide everywhere, or a key
            head would serve another number of query heads.
    """
    before, after = narrow.config, wide.config
    for name in before:
        if name not in WIDTHS and not name.startswith("_") and before[name] != after[name]:
            raise ValueError(f"Only {', '.join(WIDTHS)} can change, not {name} from {before[name]} to {after[name]}.")
    for name in WIDTHS:
        if after[name] < before[name]:
            raise ValueError(f"{name} must be at least {before[name]}, got {after[name]}.")
    group_size = before.num_attention_heads // before.num_key_value_attention_heads
    if after.num_attention_heads != group_size * after.num_key_value_attention_heads:
        raise ValueError(
            f"num_attention_heads must be {group_size} times num_key_value_attention_heads, as before, got "
            f"{after.num_attention_heads} and {after.num_key_value_attention_heads}."
        )
    scale = math.sqrt(before.num_attention_heads / after.num_attention_heads)  # channels of zeros change the deviation
    old_weights = narrow.state_dict()
    for name, new in wide.state_dict().items():
        old = old_weights[name]
        if name.endswith(BLOCK_NORMS):
            new *= scale
            old = old * scale
        elif any(part in name for part in INTO_TOKENS):
            new.zero_()
        elif any(part in name for part in INTO_CONTEXT):
            new[: len(old)] = 0
        if "ff.net.0.proj" in name:  # values, then gates
            for new_half, old_half in zip(new.chunk(2), old.chunk(2), strict=True):
                _put(new_half, old_half)
        else:
            _put(new, old)


def _put(new: torch.Tensor, old: torch.Tensor) -> None:
    """Copies a tensor into the first rows and columns of a larger one."""
    new[tuple(slice(size) for size in old.shape)] = old


if __name__ == "__main__":
    launch(main, Config)
