import numpy as np
import torch

from rayface.data.augmentation import jitter_colour, mirror, move
from rayface.randomness import generator
from rayface.records import PARSING_FLIP, PARSING_ID


def generators(count: int, step: int = 0) -> list[np.random.Generator]:
    return [generator(0, step, index, "test") for index in range(count)]


def test_mirroring_swaps_left_and_right_classes() -> None:
    masks = torch.zeros(64, 4, 4, dtype=torch.uint8)
    masks[:, :, 0] = PARSING_ID["l_eye"]
    images = torch.zeros(64, 3, 4, 4)
    images[:, :, :, 0] = 1.0
    flipped_images, flipped_masks = mirror(images, masks, torch.from_numpy(PARSING_FLIP), generators(64))
    flipped = flipped_images[:, 0, 0, 3] == 1
    assert 10 < flipped.sum() < 54
    assert (flipped_masks[flipped][:, :, 3] == PARSING_ID["r_eye"]).all()
    assert (flipped_masks[~flipped][:, :, 0] == PARSING_ID["l_eye"]).all()


def test_moving_keeps_picture_and_mask_together() -> None:
    masks = torch.zeros(8, 64, 64, dtype=torch.uint8)
    masks[:, 20:40, 24:44] = 1
    images = masks[:, None].float().repeat(1, 3, 1, 1) * 2 - 1
    moved, moved_masks = move(images, masks, 0.06, generators(8))
    assert not torch.equal(moved_masks, masks)
    agreement = ((moved[:, 0] > 0) == (moved_masks == 1)).float().mean()
    assert agreement > 0.99


def test_a_samples_draws_do_not_depend_on_its_batch() -> None:
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    whole = jitter_colour(images, 0.3, generators(4))
    singles = [jitter_colour(images[i : i + 1], 0.3, generators(4)[i : i + 1]) for i in range(4)]
    assert torch.equal(whole, torch.cat(singles))
    assert whole.abs().max() <= 1
