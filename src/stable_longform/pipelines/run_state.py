"""State of a generation that callbacks and other threads read and set."""

import threading

from stable_longform.pipelines import inputs
from stable_longform.pipelines.guidance import Guidance
from stable_longform.pipelines.sampling import Run


class RunStateMixin:
    """The state of the latest generation in each thread, which a pipeline keeps in `_runs`."""

    _runs: dict[int, Run]  # by thread

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt = True` in a callback or from another thread to skip the remaining steps.

        A callback stops its own generation; a thread without a generation stops all of them.
        """
        return self._interrupt

    @property
    def _interrupt(self) -> bool:
        return self._run.is_interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        runs = [self._run] if self._run.is_running else list(self._runs.values())
        for run in runs:
            run.is_interrupted = value

    @property
    def guidance_scale(self) -> float:
        """The scale of this thread's running or last generation; callbacks can change it from the next step on."""
        return self._run.guidance.scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        """Takes effect in the next step of the generation in this thread."""
        self._run.guidance.scale = inputs.check_guidance_scale(value)

    _guidance_scale = guidance_scale  # the name that diffusers' callbacks set

    @property
    def num_timesteps(self) -> int:
        """Number of sampling steps of this thread's running or last generation; 0 before the first."""
        return self._run.num_timesteps

    @property
    def current_timestep(self) -> float | None:
        """Time t in [0, 1] of the step that is being computed, for diffusers' caches; None between generations."""
        return self._run.current_timestep

    @property
    def _run(self) -> Run:
        """The latest generation in this thread, or an empty one."""
        return self._runs.get(threading.get_ident(), Run(Guidance(1.0), 0, is_running=False))
