"""The exponential moving average of the weights, also for weights sharded over processes (FSDP2)."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers import training_utils
from torch.distributed.tensor import DTensor, distribute_tensor


class EMAModel(training_utils.EMAModel):
    """diffusers' EMAModel with the paper's ramp-up. Its state is not sharded, so any number of processes can resume.

    Paper: §3. Decay of update n > 1: min(decay, 1 − (n − 1)^(−3/4)), as in the public code.

    Args:
        parameters: the parameters to average; with FSDP2 those of the prepared model.
        decay: largest decay, in [0, 1].
    """

    shadow_params: list[torch.Tensor]

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float = 0.9999):
        super().__init__(parameters, decay, update_after_step=1, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.shadow_params = [shadow.float() for shadow in self.shadow_params]  # also for weights in half precision

    def state_dict(self) -> dict:
        """The state with full tensors; every process must call this."""
        return super().state_dict() | {"shadow_params": [full_tensor(shadow) for shadow in self.shadow_params]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads a state to the device and into the shards of the current average."""
        places = self.shadow_params
        super().load_state_dict(state_dict)
        self.shadow_params = [_place(whole, like) for whole, like in zip(self.shadow_params, places, strict=True)]

    @torch.no_grad()
    def copy_whole_to(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Copies the average into parameters that are not sharded; every process must call this."""
        for shadow, parameter in zip(self.shadow_params, parameters, strict=True):
            parameter.copy_(full_tensor(shadow))

    @contextlib.contextmanager
    @torch.no_grad()
    def swapped(self, parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
        """A context in which the parameters are replaced by the average."""
        parameters = list(parameters)
        stored = [_local(parameter).to("cpu", copy=True) for parameter in parameters]
        self.copy_to(parameters)
        try:
            yield
        finally:
            for parameter, value in zip(parameters, stored, strict=True):
                _local(parameter).copy_(value)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of one that may be sharded over processes; if it is, every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def _place(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Gives a full tensor the device, dtype and sharding of another one."""
    whole = whole.to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole
