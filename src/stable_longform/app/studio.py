"""Shares one model between several users: one generation at a time, which reports its progress and can be stopped.

The pipelines run in their own thread. The caller reads a generator that never blocks for long, so that a page can show
the progress. Closing the generator stops the generation, after a cancel or when the browser has disconnected.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

POLL_IN_S = 0.2
MAX_CHUNKS = 4  # decoded but not read yet; a slow reader slows down the decoder
MAX_WAITING = 20  # generations

# Called with a function that opens a pipeline class; yields decoded chunks `(audio_channels, n)`.
Make = Callable[[Callable[[type], object]], Iterator[torch.Tensor]]


class Cancelled(Exception):
    """The generation was stopped."""


class Busy(ValueError):
    """Too many generations are waiting."""


@dataclass(frozen=True)
class Progress:
    """The progress of a generation.

    Args:
        stage: "waiting", "preparing", "sampling" or "decoding".
        done: completed steps, or seconds of audio when decoding.
        total: total number of steps or seconds.
        remaining_in_s: estimated time for the rest of the stage; None: unknown.
    """

    stage: str
    done: float = 0
    total: float = 0
    remaining_in_s: float | None = None


class Visitors:
    """Who has a generation: a second click has no effect while a visitor's first one is waiting or running."""

    def __init__(self):
        self._generations: dict[str, object] = {}

    @contextlib.contextmanager
    def generation(self, visitor: str) -> Iterator[bool]:
        """Yields whether a new generation is the visitor's only one; it ends with the context."""
        this = object()
        try:
            yield self._generations.setdefault(visitor, this) is this
        finally:
            if self._generations.get(visitor) is this:
                del self._generations[visitor]

    def release(self, visitor: str) -> None:
        """Lets the next click have an effect, although a cancelled generation may have to finish its step."""
        self._generations.pop(visitor, None)


class Studio:
    """A pipeline, and the generations that take turns with it.

    Args:
        pipe: with the components that all generations share.
        checkpoint: its name, for tags.
    """

    def __init__(self, pipe, checkpoint: str):
        self.pipe, self.checkpoint = pipe, checkpoint
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="studio")
        self._generations: set[_Generation] = set()

    def run(self, make: Make, duration_in_s: float) -> Generator[Progress | torch.Tensor, None, None]:
        """Generates music; yields its progress several times a second, and its chunks as they are decoded.

        Args:
            make: calls the pipelines.
            duration_in_s: total duration of the chunks in seconds.

        Raises:
            Busy: immediately, if too many generations are waiting.
            Cancelled: the studio was closed.
            ValueError: the pipelines reject the settings.
        """
        if self.num_generations > MAX_WAITING:
            raise Busy(f"{MAX_WAITING} generations are waiting already: try again later.")
        generation = _Generation(self.pipe, make, duration_in_s)
        self._generations.add(generation)
        future = self._thread.submit(generation.run)
        try:
            while not (future.done() and generation.chunks.empty()):
                try:
                    yield generation.chunks.get(timeout=POLL_IN_S)
                except queue.Empty:
                    yield generation.progress
            future.result()
        finally:
            generation.is_cancelled.set()
            self._generations.discard(generation)

    @property
    def num_generations(self) -> int:
        """Number of running and waiting generations."""
        return len(self._generations)

    def close(self) -> None:
        """Stops all generations and accepts no more."""
        for generation in list(self._generations):
            generation.is_cancelled.set()
        self._thread.shutdown()


class _Generation:
    """A generation in the studio's thread. Other threads read `progress` and `chunks`, and set `is_cancelled`."""

    def __init__(self, pipe, make: Make, duration_in_s: float):
        self.pipe, self.make, self.duration_in_s = pipe, make, duration_in_s
        self.progress = Progress("waiting")
        self.chunks: queue.Queue = queue.Queue(MAX_CHUNKS)
        self.is_cancelled = threading.Event()
        self._started_at, self._total_steps, self._steps = 0.0, 0, 0

    def run(self) -> None:
        """Generates all chunks."""
        self.check()
        self.progress = Progress("preparing")
        num_samples, start = 0, None
        for chunk in self.make(self.open):
            self.check()
            num_samples += chunk.shape[-1]
            self._put(chunk.detach().float().cpu())
            start = start or time.monotonic()  # the time of the first chunk is unknown
            self._tell("decoding", num_samples / self.pipe.sampling_rate, self.duration_in_s, start)

    def open(self, pipeline_class: type[DiffusionPipeline]):
        """Opens a pipeline of this class that reports its steps."""
        pipe = pipeline_class.from_pipe(self.pipe)
        pipe.progress_bar = self._progress_bar
        return pipe

    def check(self) -> None:
        """Raises `Cancelled` if the generation should stop."""
        if self.is_cancelled.is_set():
            raise Cancelled

    def _put(self, chunk: torch.Tensor) -> None:
        """Adds a chunk, and waits if too many have not been read yet."""
        while True:
            self.check()
            try:
                return self.chunks.put(chunk, timeout=POLL_IN_S)
            except queue.Full:
                continue

    def _tell(self, stage: str, done: float, total: float, start: float) -> None:
        """Reports the progress of a stage that began at `start`."""
        taken = time.monotonic() - start
        remaining = taken / done * max(total - done, 0) if done and taken else None
        self.progress = Progress(stage, min(done, total), total, remaining)

    # --- the pipelines call `progress_bar(total=...)` as they do with diffusers' own, and `update` after every step

    def _progress_bar(self, total: int) -> "_Generation":
        self._started_at, self._total_steps, self._steps = time.monotonic(), total, 0
        self.progress = Progress("sampling", 0, total)
        return self

    def __enter__(self) -> "_Generation":
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None:
            self.progress = Progress("decoding", 0, self.duration_in_s)

    def update(self) -> None:
        """Called after each step."""
        self.check()
        self._steps += 1
        self._tell("sampling", self._steps, self._total_steps, self._started_at)
