"""Where facial hair grows: drawn beards, found again on drawn faces that the table was not made of."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.facial_hair_zones import facial_hair_zones, zone_table
from rayface.data.synth import RECORDS_PER_IDENTITY, draw_face, identity_of
from rayface.networks.hair_localiser import KINDS, hair_of
from rayface.records import FACIAL_HAIR, FACIAL_HAIR_ZONES, PARSING_ID

SEED = 5  # the table is made of 0


def drawn(style: str, count: int) -> tuple[Tensor, Tensor]:
    """Masks and exact facial hair of drawn faces with `style`."""
    faces, identity = [], 0
    while len(faces) < count:
        if identity_of(SEED, identity).beard == style:
            face = draw_face(SEED, identity * RECORDS_PER_IDENTITY, 64)
            faces += [face] if face.facial_hair_style == style else []
        identity += 1
    return torch.stack([face.mask for face in faces]), torch.stack([face.facial_hair for face in faces]) > 0


@pytest.mark.parametrize("style", [style for style in FACIAL_HAIR if style != "none"])
def test_drawn_facial_hair_lies_in_the_zones_of_its_style(style: str) -> None:
    masks, hair = drawn(style, 8)
    kind = KINDS.index("stubble" if style == "stubble" else "dense")
    where = hair_of(facial_hair_zones(masks), torch.full((8,), FACIAL_HAIR.index(style)))[:, kind] > 0.3
    both, either = (where & hair).sum((1, 2)), (where | hair).sum((1, 2))
    assert float((both / either).median()) > 0.6


def test_zones_share_out_the_skin_and_nothing_else() -> None:
    masks, _ = drawn("full", 4)
    zones = facial_hair_zones(masks)
    assert zones.shape == (4, len(FACIAL_HAIR_ZONES), 64, 64)
    assert float(zones.min()) >= 0
    assert float(zones.sum(1).max()) <= 1 + 1e-5
    assert not zones.amax(1)[masks != PARSING_ID["skin"]].any()


def test_zones_follow_a_face_that_lies_elsewhere() -> None:
    masks, _ = drawn("full", 1)
    moved = masks.roll((3, -4), (1, 2))
    before, after = facial_hair_zones(masks), facial_hair_zones(moved)
    assert float((before.roll((3, -4), (2, 3)) - after).abs().mean()) < 0.01


def test_left_is_as_right_and_none_has_no_hair() -> None:
    assert torch.equal(zone_table(), zone_table().flip(-1))
    masks, _ = drawn("full", 2)
    assert not hair_of(facial_hair_zones(masks), torch.zeros(2, dtype=torch.int64)).any()


@pytest.mark.parametrize("value", [0, PARSING_ID["skin"], PARSING_ID["hair"]])
def test_masks_without_a_mouth_give_numbers(value: int) -> None:
    """A mask, a hand, or a parser that fails: parts are taken to be where they mostly are."""
    zones = facial_hair_zones(torch.full((2, 32, 32), value, dtype=torch.uint8))
    assert np.isfinite(zones.numpy()).all()
    assert bool(zones.any()) == (value == PARSING_ID["skin"])
