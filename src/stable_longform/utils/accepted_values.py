"""What pipelines, commands, the server and scripts accept alike.

They are in the lowest layer because the command line checks its options without importing diffusers.
"""

from typing import Literal, get_args

import torch

MAX_SEED = 2**63 - 1
MAX_STEPS = 1000  # of sampling
MAX_GUIDANCE_SCALE = 100.0  # its absolute value
MAX_CROSSFADE_IN_S = 10  # of an inpainted region
MAX_REPEATS = 100  # of each step of an inpainting
SCHEDULER_NAMES = ("dpmsolver++", "ddim", "sde-dpmsolver++", "sde-dpmsolver++-3m", "ping-pong")
EDIT_METHODS = ("noise", "invert", "edit")  # of audio to audio

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(DtypeName)}
