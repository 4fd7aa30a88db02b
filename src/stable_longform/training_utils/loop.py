"""What a training loop asks: which steps are left, what is due after a step, whether it is time to stop."""

import logging
import math
import time

import torch
from accelerate import Accelerator
from tqdm import tqdm

logger = logging.getLogger(__name__)


def is_due(done: int, interval: int, is_last: bool) -> bool:
    """Whether something is to be done after so many steps: every `interval` steps and after the last, unless 0."""
    return interval > 0 and (done % interval == 0 or is_last)


def progress_bar(accelerator: Accelerator, start_step: int, max_steps: int) -> tqdm:
    """The steps that are left, with a bar of one line in the main process."""
    return tqdm(
        range(start_step, max_steps),
        initial=min(start_step, max_steps),
        total=max_steps,
        disable=not accelerator.is_main_process,
        dynamic_ncols=True,
    )


class TimeLimit:
    """Tells when a script has run for `max_minutes`, counted from here.

    Args:
        max_minutes: greater than 0; None: no limit.

    Raises:
        ValueError: a limit that is not greater than 0.
    """

    def __init__(self, max_minutes: float | None):
        if max_minutes is not None and not max_minutes > 0:
            raise ValueError(f"max_minutes must be greater than 0, got {max_minutes}.")
        self.max_minutes = max_minutes
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes

    def is_reached(self, accelerator: Accelerator | None = None) -> bool:
        """Whether the time is over: in any process of the accelerator, each of which must ask, or in this one."""
        is_reached = time.monotonic() >= self._deadline
        if accelerator is not None and accelerator.num_processes > 1 and self.max_minutes is not None:
            count = torch.tensor(float(is_reached), device=accelerator.device)
            is_reached = bool(accelerator.reduce(count, reduction="sum") > 0)
        if is_reached:
            logger.info("%g minutes are over; to go on, run the same command again.", self.max_minutes)
        return is_reached
