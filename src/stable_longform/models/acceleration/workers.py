"""Jobs in threads that share the cores of a CPU."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int) -> Iterator[Result]:
    """Yields `function(job)` in order, computed ahead by `num_workers` threads that share torch's threads equally.

    Jobs do not wait for each other, unlike the threads inside an operation. They run without gradients and in the
    caller's inference mode.
    """
    if num_workers == 1:
        yield from map(function, jobs)
        return

    is_inference = torch.is_inference_mode_enabled()

    def run(job: Job) -> Result:
        with torch.inference_mode(is_inference), torch.no_grad():  # each thread has its own modes
            return function(job)

    num_threads = torch.get_num_threads()
    share = max(num_threads // num_workers, 1)
    with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(share,)) as executor:
        pending: collections.deque[Future[Result]] = collections.deque()
        try:
            for job in jobs:
                pending.append(executor.submit(run, job))
                if len(pending) > num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(num_threads)  # the workers have changed the default of later threads
