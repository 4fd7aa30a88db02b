"""The contrastive loss over several micro-batches against one large batch."""

import pytest
import torch
from accelerate import Accelerator

from stable_longform.losses.contrastive import clap_loss
from stable_longform.training_utils.gradient_cache import contrastive_backward, untouched_statistics


class TwoTowers(torch.nn.Module):
    """Two encoders and a temperature, all that the gradient needs of a CLAP, with batch norm to be left alone."""

    def __init__(self):
        super().__init__()
        self.audio, self.text = torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.logit_scale_a = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, audio, text):
        return [torch.nn.functional.normalize(part, dim=-1) for part in (self.audio(audio), self.text(text))]


@pytest.mark.parametrize("num_micro_batches", [1, 2, 3])
def test_micro_batches_are_each_others_negatives(num_micro_batches):
    """The gradient is that of one large batch, the temperature's included."""
    torch.manual_seed(0)
    model, audio, text = TwoTowers(), torch.randn(6, 6), torch.randn(6, 5)
    loss = clap_loss(*model(audio, text), model.logit_scale_a.exp())
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if "norm" not in name}
    model.zero_grad()
    parts = list(zip(audio.chunk(num_micro_batches), text.chunk(num_micro_batches), strict=True))
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=num_micro_batches)
    result = contrastive_backward(accelerator, model, lambda i: model(*parts[i]), num_micro_batches)
    assert result.item() == pytest.approx(loss.item(), rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)


def test_the_first_of_two_passes_teaches_batch_norms_nothing():
    model = TwoTowers()
    before = model.norm.running_mean.clone()
    with untouched_statistics(model):
        model.norm(torch.randn(8, 4) + 5)
    assert torch.equal(model.norm.running_mean, before) and model.norm.momentum == 0.1
