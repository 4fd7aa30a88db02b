"""When a script stops before its work is done, so that the same command can go on later."""

import logging
import math
import time

import torch
from accelerate import Accelerator

logger = logging.getLogger(__name__)


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
