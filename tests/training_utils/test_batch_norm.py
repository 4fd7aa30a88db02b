"""Batch norm over all processes against torch's over the whole batch."""

import in_processes
import torch
from launch import call_in_processes

from stable_longform.training_utils.batch_norm import share_batch_norms


def test_two_processes_see_the_statistics_of_both():
    call_in_processes(2, in_processes.share_batch_norm)


def test_hooks_and_weights_stay():
    norm = torch.nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda module, inputs, output: output * 2)
    waveform = torch.randn(2, 3, 4, 5)
    expected = norm(waveform)
    model = torch.nn.Sequential(norm)
    share_batch_norms(model)
    assert type(model[0]).__name__ == "SharedBatchNorm2d" and torch.equal(model(waveform), expected)
