"""The common part of all training loops: the remaining steps, what is due after each step, and when to stop."""

import logging
import math
import signal
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from stable_longform.training_utils.checkpointing import resume, save_checkpoint
from stable_longform.training_utils.metric_log import report
from stable_longform.training_utils.processes import is_any
from stable_longform.training_utils.run_options import TrainingOptions
from stable_longform.training_utils.train_step import SkippedSteps

EXIT_STOPPED = 75  # after a signal: everything is saved, and the same command continues (EX_TEMPFAIL)
SIGNALS = ("SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1

logger = logging.getLogger(__name__)


class StopRequest:
    """Tells a script to end before its last step, after `max_minutes`, SIGTERM or SIGUSR1.

    Once this object exists, these signals no longer end the process. The script should finish its step, save and end.

    Args:
        max_minutes: counted from now, greater than 0; None: no limit.

    Raises:
        ValueError: the limit is not greater than 0.
    """

    def __init__(self, max_minutes: float | None = None):
        if max_minutes is not None and not max_minutes > 0:
            raise ValueError(f"max_minutes must be greater than 0, got {max_minutes}.")
        self.max_minutes = max_minutes
        self.exit_code = 0  # of the script, as known so far
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: signal.Signals | None = None
        for name in SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._note_signal)

    def is_time_over(self, accelerator: Accelerator | None = None) -> bool:
        """Whether the time is over, here or, with an accelerator, in any process; all processes must call this."""
        is_over = time.monotonic() >= self._deadline
        if accelerator is not None and self.max_minutes is not None:
            is_over = is_any(accelerator, is_over)
        if is_over:
            logger.info("%g minutes are over; to continue, run the same command again.", self.max_minutes)
        return is_over

    def is_signalled(self, accelerator: Accelerator | None = None) -> bool:
        """Whether this process or, with an accelerator, any process got a signal; all processes must call this."""
        is_signalled = self._signal is not None
        if accelerator is not None:
            is_signalled = is_any(accelerator, is_signalled)
        if is_signalled:
            name = "a signal in another process" if self._signal is None else self._signal.name
            logger.info("Stopping because of %s; to continue, run the same command again.", name)
            self.exit_code = EXIT_STOPPED
        return is_signalled

    def _note_signal(self, number: int, frame: types.FrameType | None) -> None:
        """Remembers a signal."""
        self._signal = signal.Signals(number)


class TrainingLoop:
    """The steps of a run, and the end of each step: logging, checkpoints, stopping.

        loop = TrainingLoop(accelerator, output_dir, config, stop)
        for step in loop.steps():
            metrics, is_taken = train_step(...)
            loop.end_step(metrics)
            if loop.is_due(config.validate_every):
                ...
            loop.save_if_due()

    The checkpoint comes after the validation, so that a resumed run never skips a validation. After a signal, it comes
    before the validation, because little time may be left.

    Args:
        accelerator: with all models and optimisers prepared and all other state registered. Creating the loop loads
            the newest checkpoint of the run, if there is one.
        output_dir: folder of the run.
        config: the options of the script.
        stop: the time limit and signals.

    Raises:
        ValueError: the checkpoints cannot be used, see `resume`.
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path, config: TrainingOptions, stop: StopRequest):
        self.accelerator, self.output_dir, self.config, self.stop = accelerator, output_dir, config, stop
        self.skipped = SkippedSteps(config.max_skipped_steps)
        self.order = resume(accelerator, output_dir, config.batch_size, self.skipped)
        self.done = self.order.start_step  # completed steps of the run
        self.is_last = self.is_stopped = False  # set after each step: it was the last, or a signal came
        self._progress = tqdm(
            range(self.done, config.max_steps),
            initial=min(self.done, config.max_steps),
            total=config.max_steps,
            disable=not accelerator.is_main_process,
            dynamic_ncols=True,
        )

    def steps(self) -> Iterator[int]:
        """Yields the numbers of the remaining steps; after the last one, it closes the trackers."""
        for step in self._progress:
            yield step
            if self.is_last or self.is_stopped:
                break
        self.accelerator.end_training()

    def end_step(self, metrics: Mapping[str, torch.Tensor | float], is_logged: bool | None = None) -> None:
        """Ends a step and logs its metrics; every process must call this.

        After a signal, the checkpoint is saved here.

        Args:
            metrics: see `report`.
            is_logged: whether this step is logged; the last one always is. None: every `log_every` steps.
        """
        self.done += 1
        self.is_last = self.done == self.config.max_steps or self.stop.is_time_over(self.accelerator)
        self.is_stopped = not self.is_last and self.stop.is_signalled(self.accelerator)
        if self.is_due(self.config.log_every) if is_logged is None else is_logged or self.is_last:
            report(self.accelerator, self.output_dir, self.done, metrics, self._progress)
        if self.is_stopped:
            self._save()

    def is_due(self, interval: int) -> bool:
        """Whether something is due now: every `interval` steps and after the last; 0: never."""
        return interval > 0 and (self.done % interval == 0 or self.is_last)

    def save_if_due(self) -> None:
        """Saves a checkpoint every `save_every` steps and after the last; every process must call this."""
        if self.is_due(self.config.save_every) and not self.is_stopped:
            self._save()

    def _save(self) -> None:
        """Saves a checkpoint of the completed steps."""
        save_checkpoint(self.accelerator, self.output_dir, self.done, self.order, self.skipped, self.config)
