import numpy as np
import torch

from rayface.data.augmentation import draw_view
from rayface.imaging.views import VIEW_NUMBERS, view


def test_a_view_that_does_nothing_gives_the_picture() -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    unmoved = torch.tensor([[1.0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1]]).expand(2, -1)
    assert torch.allclose(view(images, unmoved), images, atol=1e-5)


def test_pictures_are_changed_each_by_its_own_numbers_and_gradients_pass() -> None:
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    numbers = torch.stack([draw_view(np.random.default_rng(seed)) for seed in (0, 1)])
    assert numbers.shape == (2, VIEW_NUMBERS)
    both = view(images, numbers)
    assert torch.allclose(both[1:], view(images[1:], numbers[1:]), atol=1e-6)
    assert not torch.allclose(both, images, atol=0.05)
    both.sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()
