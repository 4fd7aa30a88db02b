import pytest
import torch

from stable_longform.losses.adversarial import adversarial_loss, discriminator_loss, feature_matching_loss

REAL = [torch.tensor([2.0, 0.5]), torch.tensor([[-1.0], [0.0], [1.0]])]
FAKE = [torch.tensor([-3.0, 0.25]), torch.tensor([[1.0], [-0.5], [-1.0]])]


def test_discriminator_loss_closed_form():
    # scale 1: real (0 + 0.5) / 2, fake (0 + 1.25) / 2; scale 2: real (2 + 1 + 0) / 3, fake (2 + 0.5 + 0) / 3
    torch.testing.assert_close(discriminator_loss(REAL, FAKE), torch.tensor(0.25 + 0.625 + 1.0 + 2.5 / 3))


def test_discriminator_loss_is_zero_beyond_the_margin_and_flat_there():
    real, fake = torch.tensor([1.0, 7.0], requires_grad=True), torch.tensor([-1.5, -9.0], requires_grad=True)
    loss = discriminator_loss([real], [fake])
    loss.backward()
    assert loss.item() == 0
    assert fake.grad.abs().max() == 0 and real.grad[1] == 0


def test_undecided_discriminator_loses_two_a_scale():
    assert float(discriminator_loss([torch.zeros(3)] * 5, [torch.zeros(3)] * 5)) == 10


def test_adversarial_loss_closed_form_and_gradient():
    scores = [score.clone().requires_grad_() for score in FAKE]
    loss = adversarial_loss(scores)
    torch.testing.assert_close(loss, torch.tensor(2.75 / 2 + 0.5 / 3))
    loss.backward()
    torch.testing.assert_close(scores[0].grad, torch.full((2,), -1 / 2))
    torch.testing.assert_close(scores[1].grad, torch.full((3, 1), -1 / 3))


def test_feature_matching_closed_form():
    """The maps of a scale are averaged, whatever their sizes; the scales are summed."""
    real = [[torch.zeros(2), torch.zeros(3, 4)], [torch.ones(5)]]
    fake = [[torch.tensor([1.0, -3.0]), torch.full((3, 4), 0.5)], [torch.full((5,), -1.0)]]
    torch.testing.assert_close(feature_matching_loss(real, fake), torch.tensor((2.0 + 0.5) / 2 + 2.0))
    assert float(feature_matching_loss(real, real)) == 0


@pytest.mark.parametrize("num_scales", [1, 2, 5])
def test_losses_are_sums_over_scales(num_scales):
    real, fake = [torch.randn(4, 3) for _ in range(2)]
    for loss, arguments in [
        (discriminator_loss, ([real], [fake])),
        (adversarial_loss, ([fake],)),
        (feature_matching_loss, ([[real]], [[fake]])),
    ]:
        repeated = loss(*(scales * num_scales for scales in arguments))
        torch.testing.assert_close(repeated, num_scales * loss(*arguments))


def test_unequal_numbers_of_scales_or_maps():
    with pytest.raises(ValueError):
        discriminator_loss(REAL, FAKE[:1])
    with pytest.raises(ValueError):
        feature_matching_loss([[torch.zeros(2)] * 2], [[torch.zeros(2)]])
