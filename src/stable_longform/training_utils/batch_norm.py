"""Batch norm over the items of all processes, on any device. (torch's SyncBatchNorm is for GPUs only.)"""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_reduce


class SharedBatchNorm2d(torch.nn.BatchNorm2d):
    """Batch norm whose statistics in training are over the items of all processes.

    All processes must call it equally often; their batches may differ in size. Ioffe and Szegedy, "Batch
    normalization" (2015).
    """

    # Those of the default arguments.
    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        values = input.float()
        count = torch.tensor(float(values[:, 0].numel()), device=values.device)
        dist.all_reduce(count)
        axes = (0, 2, 3)
        mean = all_reduce(values.sum(dim=axes)) / count
        centred = values - mean[:, None, None]
        var = all_reduce(centred.square().sum(dim=axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def share_batch_norms(model: torch.nn.Module) -> None:
    """Turns every BatchNorm2d of a model into a `SharedBatchNorm2d` and keeps its hooks."""
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
