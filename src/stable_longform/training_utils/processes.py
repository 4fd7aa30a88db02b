"""How the processes of a run share work and exchange results."""

import datetime
import functools
from collections.abc import Callable

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object


def is_any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must call this. GPUs are not involved."""
    if accelerator.num_processes == 1:
        return flag
    handler = accelerator.init_handler
    count = torch.tensor(float(flag))
    dist.all_reduce(count, group=_host_group(None if handler is None else handler.timeout))
    return bool(count > 0)


def share_out(accelerator: Accelerator, count: int, function: Callable[[int], object]) -> list:
    """Calls `function(0)` to `function(count - 1)`, each in one of the processes; all processes must call this.

    Returns:
        The results in order, in every process. They are pickled in between, so tensors should be on the CPU.
    """
    own = range(accelerator.process_index, count, accelerator.num_processes)
    results = gather_object([(i, function(i)) for i in own])
    return [result for _, result in sorted(results, key=lambda row: row[0])]


@functools.cache
def _host_group(timeout: datetime.timedelta | None) -> dist.ProcessGroup:
    """A group of all processes that communicates by gloo, whatever backend their GPUs use."""
    return dist.new_group(backend="gloo", timeout=timeout)
