"""What a training loop asks: which steps are left, what is due after a step, whether it is time to stop."""

import logging
import math
import signal
import time
import types

from accelerate import Accelerator
from tqdm import tqdm

from stable_longform.training_utils.processes import is_any

EXIT_STOPPED = 75  # after a signal: all is saved, and the same command goes on (EX_TEMPFAIL: try again later)
SIGNALS = ("SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1

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


class StopRequest:
    """Tells when a script is to end before its last step: `max_minutes` are over, or SIGTERM or SIGUSR1 has come.

    From here on these signals no longer end the process. It is to save and end after the step it is in.

    Args:
        max_minutes: counted from here, greater than 0; None: no limit.

    Raises:
        ValueError: a limit that is not greater than 0.
    """

    def __init__(self, max_minutes: float | None = None):
        if max_minutes is not None and not max_minutes > 0:
            raise ValueError(f"max_minutes must be greater than 0, got {max_minutes}.")
        self.max_minutes = max_minutes
        self.exit_code = 0  # of the script, as far as is known
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: signal.Signals | None = None
        for name in SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._note_signal)

    def is_time_over(self, accelerator: Accelerator | None = None) -> bool:
        """Whether the time is over: in any process of the accelerator, each of which must ask, or in this one."""
        is_over = time.monotonic() >= self._deadline
        if accelerator is not None and self.max_minutes is not None:
            is_over = is_any(accelerator, is_over)
        if is_over:
            logger.info("%g minutes are over; to go on, run the same command again.", self.max_minutes)
        return is_over

    def is_signalled(self, accelerator: Accelerator | None = None) -> bool:
        """Whether a signal has come to any process of the accelerator, each of which must ask, or to this one."""
        is_signalled = self._signal is not None
        if accelerator is not None:
            is_signalled = is_any(accelerator, is_signalled)
        if is_signalled:
            name = "a signal in another process" if self._signal is None else self._signal.name
            logger.info("Stopping because of %s; to go on, run the same command again.", name)
            self.exit_code = EXIT_STOPPED
        return is_signalled

    def _note_signal(self, number: int, frame: types.FrameType | None) -> None:
        """Remembers a signal."""
        self._signal = signal.Signals(number)
