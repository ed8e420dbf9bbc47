"""Self-blended faces: only the face changes, everything is drawn by the sample, no two are alike."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.data.self_blending import face_part, self_blend
from rayface.randomness import generator
from rayface.records import FFHQ_TEMPLATE
from rayface.systems.base import sample_generators

SIDE = 64


def faces(count: int) -> tuple[Tensor, Tensor]:
    coarse = torch.from_numpy(generator(0, stream="self-blending test").random((count, 3, 12, 12))).float()
    images = interpolate(coarse, SIDE, mode="bicubic").clamp(0, 1) * 2 - 1
    return images, torch.from_numpy(FFHQ_TEMPLATE * SIDE).expand(count, 5, 2)


def test_what_the_mask_leaves_out_stays() -> None:
    images, landmarks = faces(24)
    blended, masks = self_blend(images, landmarks, sample_generators(0, 0, range(24), "x"))
    assert blended.shape == images.shape
    assert masks.shape == (24, SIDE, SIDE)
    assert blended.abs().max() <= 1
    assert ((masks >= 0) & (masks <= 1 + 1e-6)).all()
    difference = (blended - images).abs().amax(1)
    # where the photo itself was softened, all of it is: then the copy is what is left
    kept = difference[:, :3].amax((1, 2)) < 1e-6
    assert kept.float().mean() > 0.6
    assert difference[kept][masks[kept] == 0].max() < 1e-6
    changed = (difference * (masks > 0.2)).amax((1, 2))
    assert (changed > 0.01).float().mean() > 0.9


def test_each_sample_has_its_own_draws() -> None:
    images, landmarks = faces(1)
    same = images.expand(3, -1, -1, -1), landmarks.expand(3, -1, -1)
    together = self_blend(*same, sample_generators(0, 0, range(3), "x"))[0]
    alone = self_blend(images, landmarks, sample_generators(0, 0, [2], "x"))[0]
    assert torch.equal(together[2], alone[0])
    assert not torch.equal(together[0], together[1])


def test_masks_lie_on_the_face_and_differ() -> None:
    landmarks = torch.from_numpy(FFHQ_TEMPLATE * 256)
    masks = torch.stack([face_part(landmarks, 256, generator(0, 0, index, "part")) for index in range(40)])
    shares = (masks > 0.1).float().mean((1, 2))
    assert shares.std() > 0.03
    assert shares.max() < 0.45
    assert (shares > 0.01).float().mean() > 0.85
    assert masks[:, :32].max() < 0.1, "never the hair"
