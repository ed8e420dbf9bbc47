"""The recogniser's view of a crop, its gradients, and that widths may change."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from rayface.errors import RayfaceError
from rayface.networks.recogniser import CHIP_TEMPLATE, Recogniser, RecogniserConfig
from rayface.networks.widths import apply_widths, read_widths
from rayface.records import FFHQ_TEMPLATE

SMALL = RecogniserConfig(side=64, widths=(8, 12, 16), hidden=(8, 8, 8), blocks=(1, 1, 1), embedding=16)


@pytest.mark.parametrize("size", [128, 256, 512])
def test_landmarks_of_a_crop_lie_where_the_chip_has_them(size: int) -> None:
    """Bright dots at the crop's five landmarks are bright dots at the chip's."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for point, wanted in zip(FFHQ_TEMPLATE * size, CHIP_TEMPLATE * 150, strict=True):
        dot = torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (size / 64) ** 2))
        chip = Recogniser(RecogniserConfig()).chips((dot * 2 - 1).expand(1, 3, size, size))[0, 0] + 1
        rows, columns = torch.meshgrid(torch.arange(150.0), torch.arange(150.0), indexing="ij")
        middle = [float((chip * axis).sum() / chip.sum()) for axis in (columns, rows)]
        # the templates are means: the best similarity leaves up to 1.6 px between the nose tips
        assert np.allclose(middle, wanted, atol=2.0)


def test_large_crops_are_not_aliased() -> None:
    """A pattern finer than a chip pixel is grey in the chip, not a moire."""
    stripes = (torch.arange(1024) % 2).float() * 2 - 1
    chip = Recogniser(RecogniserConfig()).chips(stripes.expand(1, 3, 1024, 1024))
    assert chip.abs().max() < 0.05


def test_any_size_of_a_smooth_crop_gives_the_same_embedding() -> None:
    torch.manual_seed(0)
    network = Recogniser(SMALL).eval()
    coarse = torch.rand(2, 3, 8, 8) * 2 - 1
    small, large = (interpolate(coarse, (s, s), mode="bicubic").clamp(-1, 1) for s in (128, 512))
    assert torch.cosine_similarity(network(small), network(large)).min() > 0.999


def test_gradients_reach_the_crop() -> None:
    torch.manual_seed(0)
    crop = (torch.rand(1, 3, 96, 96) * 2 - 1).requires_grad_()
    Recogniser(SMALL)(crop).square().sum().backward()
    assert crop.grad is not None
    assert crop.grad[0, :, 30:60, 40:56].abs().sum() > 0


def test_batches_change_nothing() -> None:
    torch.manual_seed(0)
    network, crops = Recogniser(SMALL), torch.rand(4, 3, 64, 64) * 2 - 1
    assert torch.allclose(network(crops)[1:2], network(crops[1:2]), atol=1e-5)


def test_narrowed_widths_are_read_and_made_again() -> None:
    narrow = Recogniser(RecogniserConfig(side=64, widths=(8, 12, 16), hidden=(4, 6, 5), blocks=(1, 1, 1), embedding=16))
    again = apply_widths(Recogniser(SMALL), read_widths(narrow))
    again.load_state_dict(narrow.state_dict())
    crop = torch.rand(1, 3, 64, 64)
    assert torch.equal(narrow(crop), again(crop))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": (8, 16)}, "one value per level"),
        ({"embedding": 0}, "at least 1"),
        ({"side": 64}, "side=64 is too small for 5 levels"),
    ],
)
def test_impossible_configurations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        RecogniserConfig(**values)


def test_the_smallest_side_allowed_works() -> None:
    for levels in range(1, 6):
        values = {"widths": (4,) * levels, "hidden": (4,) * levels, "blocks": (1,) * levels}
        for side in range(11, 200):
            try:
                config = RecogniserConfig(side=side, **values)  # type: ignore[arg-type]
            except RayfaceError:
                continue
            assert Recogniser(config).embed_chips(torch.zeros(1, 3, side, side)).shape == (1, 128)
            break
        else:
            pytest.fail(f"no side works for {levels} levels")
