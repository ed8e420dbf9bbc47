"""Windows for the detection cascade: the boxes of faces, what a window is drawn as, what it should be taken for."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.synth import draw_face
from rayface.data.windows import (
    BOX_HEIGHT,
    BOX_WIDTH,
    FACE,
    NONE,
    PART,
    draw_windows,
    face_boxes,
    overlaps,
    place_faces,
    window_targets,
)
from rayface.detector import load_detector
from rayface.errors import RayfaceError
from rayface.randomness import generator
from rayface.records import FFHQ_TEMPLATE, LANDMARK_FLIP

TEMPLATE = torch.from_numpy(FFHQ_TEMPLATE)
COUNTS = (3, 4, 7)


def generators(count: int) -> list[np.random.Generator]:
    return [generator(5, 0, index, "windows test") for index in range(count)]


def test_a_frontal_face_has_the_box_of_the_template() -> None:
    x0, y0, x1, y1 = face_boxes(TEMPLATE[None] * 200)[0].tolist()
    assert (x0 + x1) / 2 == pytest.approx(100, abs=1)
    assert x1 - x0 == pytest.approx(200 * BOX_WIDTH, rel=1e-3)
    assert y1 - y0 == pytest.approx(200 * BOX_HEIGHT, rel=1e-3)


def test_boxes_follow_the_face_and_its_turning() -> None:
    moved = TEMPLATE * 50 + torch.tensor([300.0, 20.0])
    assert torch.allclose(face_boxes(moved[None]), face_boxes(TEMPLATE[None] * 50) + torch.tensor([300.0, 20.0] * 2))
    turned = TEMPLATE.clone()
    turned[2, 0] += 0.08  # the nose points to the right: the head, and with it the box, reaches to the left
    assert face_boxes(turned[None])[0, 0] < face_boxes(TEMPLATE[None])[0, 0] - 0.04


def test_boxes_are_where_the_detector_draws_them() -> None:
    faces = [draw_face(3, index, 256) for index in range(12)]
    found = load_detector().detect([face.image for face in faces])
    shares = [
        overlaps(own.boxes[:1].numpy(), face_boxes(torch.from_numpy(face.landmarks)[None])[0].numpy())[0]
        for own, face in zip(found, faces, strict=True)
        if len(own)
    ]
    assert len(shares) >= 10
    assert np.median(shares) > 0.75


def test_overlaps_by_hand() -> None:
    box = np.array([0.0, 0, 10, 10])
    windows = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 20, 20]])
    assert overlaps(windows, box) == pytest.approx([1, 1 / 3, 0, 1 / 4])


def test_windows_are_of_the_kinds_asked_for() -> None:
    boxes = face_boxes(torch.stack([TEMPLATE * 100, TEMPLATE * 60 + 30]))
    windows = draw_windows(boxes, 100, COUNTS, generators(2))
    assert windows.shape == (2, sum(COUNTS), 4)
    assert torch.allclose(windows[..., 2] - windows[..., 0], windows[..., 3] - windows[..., 1], atol=1e-4)  # squares
    kinds = [FACE] * COUNTS[0] + [PART] * COUNTS[1] + [NONE] * COUNTS[2]
    for box, own in zip(boxes.numpy(), windows.numpy(), strict=True):
        for (least, most), share in zip(kinds, overlaps(own, box), strict=True):
            assert least - 1e-5 <= share <= most + 1e-5
    alone = draw_windows(boxes[1:], 100, COUNTS, generators(2)[1:])
    assert torch.equal(alone[0], windows[1])  # a picture's draws are its own


@pytest.mark.parametrize("box", [[float("nan"), 0, 9, 9], [0, 0, 9, float("inf")], [4, 4, 4, 9]])
def test_a_box_that_is_none_is_refused_instead_of_drawn_for_ever(box: list[float]) -> None:
    with pytest.raises(RayfaceError, match=rf"the box \[{box[0]}.*is no face's; look for landmarks"):
        draw_windows(torch.tensor([[10.0, 10, 60, 70], box]), 100, COUNTS, generators(2))


def test_targets_by_hand() -> None:
    windows = torch.tensor([[[10.0, 20, 30, 40]]])
    landmarks = torch.tensor([[[15.0, 25], [25, 25], [20, 30], [16, 36], [24, 36]]])
    offsets, points = window_targets(windows, torch.tensor([[12.0, 18, 28, 44]]), landmarks)
    assert offsets[0, 0].tolist() == pytest.approx([0.1, -0.1, -0.1, 0.2])
    assert points[0, 0].tolist() == pytest.approx([0.25, 0.75, 0.5, 0.3, 0.7, 0.25, 0.25, 0.5, 0.8, 0.8])


def dotted(points: Tensor, size: int = 96) -> Tensor:
    """A black picture uint8 [3, S, S]: red spots on the left eye and mouth corner, green on the rest."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    picture = torch.zeros(3, size, size)
    for index, (px, py) in enumerate(points.tolist()):
        spot = 255 * torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)
        picture[0 if index in (0, 3) else 1] += spot
    return picture.clamp(0, 255).to(torch.uint8)


def test_landmarks_stay_on_the_face_and_are_named_as_seen() -> None:
    """Spots painted at the landmarks are found at the placed ones; a mirrored left eye is the right one."""
    points = TEMPLATE * 96
    count = 12
    pictures, placed = place_faces(
        dotted(points).expand(count, -1, -1, -1), points.expand(count, -1, -1), (0.6, 0.9), 15.0, generators(count)
    )
    mirrored = 0
    for picture, own in zip(pictures, placed, strict=True):
        assert own[0, 0] < own[1, 0]
        assert own[3, 0] < own[4, 0]
        x, y = own.round().long().unbind(1)
        values = picture[:, y, x]
        assert bool((values.amax(0) > 120).all())
        red = (values[0] > values[1]).tolist()
        assert red in ([True, False, False, True, False], [False, True, False, False, True])
        mirrored += red[1]
    assert 0 < mirrored < count
    assert LANDMARK_FLIP[0] == 1


def test_placed_faces_do_not_depend_on_the_batch() -> None:
    points = (TEMPLATE * 96).expand(3, -1, -1)
    pictures = torch.stack([dotted(points[0] + shift) for shift in range(3)])
    together = place_faces(pictures, points, (0.5, 1.1), 10.0, generators(3))
    alone = place_faces(pictures[2:], points[2:], (0.5, 1.1), 10.0, generators(3)[2:])
    assert torch.equal(together[0][2:], alone[0])
    assert torch.equal(together[1][2:], alone[1])


def test_half_of_the_reduced_crops_lie_on_texture() -> None:
    black, points = torch.zeros(16, 3, 96, 96, dtype=torch.uint8), (TEMPLATE * 96).expand(16, -1, -1)
    pictures, placed = place_faces(black, points, (0.5, 0.5), 0.0, generators(16))
    textured = pictures.flatten(1).amax(1) > 0
    assert 3 <= int(textured.sum()) <= 13
    for picture, own in zip(pictures[textured], placed[textured], strict=True):
        (x0, y0), (x1, y1) = own.amin(0).long().tolist(), own.amax(0).long().tolist()
        assert int(picture[:, y0:y1, x0:x1].max()) == 0  # nothing is painted over the face
        assert 0.1 < float((picture.amax(0) > 0).float().mean()) < 0.78  # three quarters, less where dark
