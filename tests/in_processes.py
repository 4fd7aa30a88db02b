"""What tests do in other processes joined by gloo; each function raises where the result is wrong."""

import copy
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from diffusers import ContextParallelConfig, training_utils
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from stable_longform.evaluation.measurements import peak_memory
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.batch_norm import share_batch_norms
from stable_longform.training_utils.ema import EMAModel, full_tensor
from stable_longform.training_utils.processes import share_out
from stable_longform.training_utils.reconstruction_validation import validate_reconstruction


def share_batch_norm() -> None:
    """Each process has some of the items, one more than the other."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    whole, shared = layers, copy.deepcopy(layers)
    share_batch_norms(shared)
    waveform, weights = torch.randn(5, 2, 4, 6) * 3 + 20, torch.randn(5, 3, 4, 6)
    own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 5)
    for _ in range(2):
        expected, output = whole(waveform), shared(waveform[own])
        torch.testing.assert_close(output, expected[own])
    (expected * weights).sum().backward()
    (output * weights[own]).sum().backward()
    for parameter, one in zip(shared.parameters(), whole.parameters(), strict=True):
        dist.all_reduce(parameter.grad)
        torch.testing.assert_close(parameter.grad, one.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shared.state_dict(), whole.state_dict())
    torch.testing.assert_close(shared.eval()(waveform[own]), whole.eval()(waveform)[own])


def average_sharded_weights() -> None:
    """FSDP2's shards are averaged like whole weights, and their state is whole."""
    torch.manual_seed(0)
    whole = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))
    sharded = copy.deepcopy(whole)
    for layer in sharded:
        fully_shard(layer, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    expected = training_utils.EMAModel(
        whole.parameters(), 0.999, update_after_step=1, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    average = EMAModel(sharded.parameters(), 0.999)
    assert isinstance(average.shadow_params[0], DTensor)
    for step in range(5):
        with torch.no_grad():
            for one, other in zip(whole.parameters(), sharded.parameters(), strict=True):
                one.mul_(1.3).add_(0.1 * step)
                other.mul_(1.3).add_(0.1 * step)
        expected.step(whole.parameters())
        average.step(sharded.parameters())
    state = average.state_dict()
    torch.testing.assert_close(state["shadow_params"], expected.shadow_params)
    other = EMAModel(sharded.parameters(), 0.999)
    other.load_state_dict(state)
    before = [full_tensor(parameter.detach()).clone() for parameter in sharded.parameters()]
    with other.swapped(sharded.parameters()):
        now = [full_tensor(parameter.detach()) for parameter in sharded.parameters()]
        torch.testing.assert_close(now, expected.shadow_params)
    torch.testing.assert_close([full_tensor(parameter.detach()) for parameter in sharded.parameters()], before)
    fresh = copy.deepcopy(whole)
    other.copy_whole_to(list(fresh.parameters()))
    torch.testing.assert_close([parameter.detach() for parameter in fresh.parameters()], expected.shadow_params)


def hold_memory() -> None:
    """The peak grows by about what is held beyond the earlier one."""
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(before // 4 + 25_000_000)  # four bytes each: more than there was at any time
    assert peak_memory(torch.device("cpu")) - before > 50_000_000 and held[-1] == 1


def share_out_calls() -> None:
    """Each process makes its calls, all get all results in order, also if there are fewer calls than processes."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    assert share_out(accelerator, 3, lambda i: (i, accelerator.process_index)) == [(0, 0), (1, 1), (2, 0)]
    assert share_out(accelerator, 1, lambda i: accelerator.process_index) == [0]


def share_reconstructions(folder: Path) -> None:
    """Three crops in two processes have the metrics of the three in one."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    vae = AutoencoderOobleck(4, (2, 4, 4, 8, 8), (1, 2, 2, 2, 2), 4, 4).eval()
    waveform = 0.1 * torch.randn(3, 2, 10 * vae.hop_length)
    decoded, metrics = validate_reconstruction(vae, waveform, folder, 2, accelerator)
    each = [validate_reconstruction(vae, one[None], folder, 0, accelerator) for one in waveform]
    with torch.no_grad():
        expected = torch.cat([vae(one[None]).sample for one in waveform])
    torch.testing.assert_close(decoded, expected, rtol=0, atol=0)
    assert metrics == {name: sum(one[name] for _, one in each) / 3 for name in metrics}
    dist.barrier()
    assert len(list(folder.glob("?-*.flac"))) == 4


def share_a_sequence(build, make_inputs) -> None:
    """Each process has half of the 12 tokens. gloo gathers only equal parts."""
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it; a CPU counts as none
    model, inputs = build(), make_inputs(length=11)
    mask = torch.rand(2, 12, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    with torch.no_grad():
        expected = [model(**inputs).sample, model(**inputs, encoder_attention_mask=mask).sample]
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        lengths = []
        model.transformer_blocks[1].norm1.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
        output = [model(**inputs).sample, model(**inputs, encoder_attention_mask=mask).sample]
    assert lengths == [6, 6]
    torch.testing.assert_close(output, expected)
