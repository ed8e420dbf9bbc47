"""Boxes and the pyramid that the detector reads its windows from."""

import torch

from rayface.imaging.boxes import shift, square, suppress
from rayface.imaging.pyramid import Pyramid


def test_square_and_shift() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 20]])
    assert square(boxes).tolist() == [[-5, 0, 15, 20]]
    assert shift(boxes, torch.tensor([[0.1, 0.1, -0.1, 0.5]])).tolist() == [[1, 2, 9, 30]]


def test_suppression_keeps_the_best_of_each_group() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 10], [2, 2, 6, 6]])
    scores = torch.tensor([0.8, 0.9, 0.5, 0.7, 0.99])
    groups = torch.tensor([0, 0, 0, 1, 0])
    assert suppress(boxes, scores, groups, 0.5).tolist() == [4, 1, 2, 3]
    assert suppress(boxes, scores, groups, 0.5, of_smaller=True).tolist() == [4, 2, 3]  # 4 lies within 0 and 1
    assert suppress(boxes, scores, groups, 0.5, limit=1).tolist() == [4, 3]
    assert suppress(boxes[:0], scores[:0], groups[:0], 0.5).tolist() == []


def test_a_box_removed_removes_no_other() -> None:
    chain = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert suppress(chain, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3), 0.3).tolist() == [0, 2]


def test_windows_show_what_the_boxes_enclose() -> None:
    y, x = torch.meshgrid(torch.arange(400), torch.arange(600), indexing="ij")
    photo = torch.stack([x * 255 / 600, y * 255 / 400, torch.zeros(400, 600)]).to(torch.uint8)
    pyramid = Pyramid(torch.stack([photo, photo.flip(2)]), largest=300)
    assert pyramid.octaves[0].shape[-1] == 300
    boxes = torch.tensor([[100.0, 50, 340, 290], [100, 50, 148, 98], [200, 100, 240, 140]])
    windows = pyramid.windows(boxes, torch.tensor([0, 0, 1]), 24)
    levels = (windows + 1) * 127.5
    for window, box, mirrored in zip(levels, boxes, (False, False, True), strict=True):
        centre = float(box[0] + box[2]) / 2
        red = (600 - centre if mirrored else centre) * 255 / 600
        assert abs(float(window[0].mean()) - red) < 1
        assert abs(float(window[1].mean()) - float(box[1] + box[3]) / 2 * 255 / 400) < 1
    span = float(levels[0, 0, :, -1].mean() - levels[0, 0, :, 0].mean())
    assert abs(span - 240 * 23 / 24 * 255 / 600) < 1.5
