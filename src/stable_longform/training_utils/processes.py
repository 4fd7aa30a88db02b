"""What the processes of a run tell each other without waiting for their GPUs."""

import datetime
import functools

import torch
import torch.distributed as dist
from accelerate import Accelerator


def is_any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process, each of which must ask. It goes from CPU to CPU."""
    if accelerator.num_processes == 1:
        return flag
    handler = accelerator.init_handler
    count = torch.tensor(float(flag))
    dist.all_reduce(count, group=_host_group(None if handler is None else handler.timeout))
    return bool(count > 0)


@functools.cache
def _host_group(timeout: datetime.timedelta | None) -> dist.ProcessGroup:
    """All processes, joined by gloo whatever their GPUs are joined by."""
    return dist.new_group(backend="gloo", timeout=timeout)
