"""Bring changed face crops back into their photo.

What travels is the change (after minus before, in the crop), not the crop's pixels: a face larger than its crop
keeps its own fine detail, and where nothing changed or the region is 0 the photo's pixels stay as they are.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from rayface.errors import RayfaceError
from rayface.imaging.align import invert, resample, transform_points
from rayface.imaging.filters import gaussian_blur, luminance
from rayface.imaging.quality import COLUMNS, ROWS
from rayface.records import PARSING_CLASSES

LEFT_OUT = frozenset({"background", "hat", "neck_l", "neck", "cloth"})
# Shares of the crop's side. An aligned face spans a fixed part of its crop, so these follow the face's size.
GROW = 0.015  # how far the parsed face is extended
FEATHER = 0.025  # sigma of the soft edge
FRAME = 0.12  # width of the ramp from 0 at the crop's border to 1
DETAIL_BLOCKS, FLAT_SHARE = 5, 0.1  # blocks to a side in which detail is measured; the share of them taken as flat
KEPT_DETAIL = 0.95  # a step that leaves less of a face's gradient energy makes it less sharp
COARSE = 8  # px to a side of the blocks on whose means low frequencies are found
COLOUR_SCALE = 1 / 8  # share of S; sigma of what counts as a colour shift and not as a change

Box = tuple[int, int, int, int]  # left, top, right, bottom (exclusive), photo pixels


def face_region(masks: Tensor, grow: float = GROW, feather: float = FEATHER) -> Tensor:
    """How much of a change is let through at each crop pixel.

    `masks`: uint8 [N, S, S], ids of `records.PARSING_CLASSES`. Returns float32 [N, S, S] in [0, 1]: the parsed
    face with hair, ears and glasses, slightly extended (`grow`) and feathered (`feather`, both shares of S), within
    a square that fades out; exactly 0 at the crop's border and away from the face.
    """
    size = masks.shape[-1]
    kept = torch.tensor([name not in LEFT_OUT for name in PARSING_CLASSES], device=masks.device)
    if len(masks) and int(masks.max()) >= len(kept):
        raise RayfaceError(f"mask holds class {int(masks.max())}; the largest id is {len(kept) - 1}.")
    face = kept[masks.long()].float()[:, None]
    radius = round(grow * size)
    if radius:
        face = functional.max_pool2d(face, 2 * radius + 1, 1, radius)
    soft = gaussian_blur(face, feather * size)[:, 0].clamp(0, 1)
    return torch.minimum(soft, _frame(size).to(soft.device))


def _frame(size: int) -> Tensor:
    """A square [size, size] of 1 that falls smoothly to 0 at its border."""
    edge = torch.arange(size, dtype=torch.float32)
    ramp = (torch.minimum(edge, size - 1 - edge) / max(1.0, FRAME * size)).clamp(0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return ramp[:, None] * ramp[None, :]


def paste_back(
    photo: Tensor, before: Tensor, after: Tensor, matrices: Tensor, region: Tensor, match_colour: bool = False
) -> Tensor:
    """The photo with the change of each crop added.

    `photo`: uint8 [3, H, W], not written to; `before`, `after`: uint8 [N, 3, S, S], the crops `warp_crops` gave and
    what became of them; `matrices`: [N, 2, 3], photo to crop; `region`: float [N, S, S], see `face_region`.
    `match_colour` takes the low frequencies (sigma S / 8) out of the change, for steps that must not move colours.
    Where regions of several faces overlap, changes are averaged by weight; the order of faces does not matter, to
    the bit. Pixels of weight 0 (see `paste_weight`) are the photo's own.
    """
    result = photo.clone()
    if not len(matrices):
        return result
    if before.shape != after.shape or region.shape != before.shape[:1] + before.shape[2:]:
        raise RayfaceError(
            f"before {list(before.shape)}, after {list(after.shape)} and region {list(region.shape)} do not fit."
        )
    change = after.float() - before.float()
    if match_colour:
        change = change - _low_frequencies(change, region)
    layers = torch.cat([change, region[:, None].float()], 1)
    for (left, top, right, bottom), canvas in _canvases(layers, matrices, photo.shape[-2], photo.shape[-1]):
        part = result[:, top:bottom, left:right]
        part.copy_((part + canvas[:3] / canvas[3:].clamp(min=1)).round_().clamp_(0, 255))
    return result


def paste_weight(region: Tensor, matrices: Tensor, height: int, width: int) -> Tensor:
    """The regions seen in the photo, float32 [H, W] in [0, 1]: 0 where `paste_back` leaves the photo alone."""
    weight = region.new_zeros((height, width), dtype=torch.float32)
    layers = region[:, None].float().expand(-1, 4, -1, -1)
    for (left, top, right, bottom), canvas in _canvases(layers, matrices, height, width):
        weight[top:bottom, left:right] = canvas[3].clamp(max=1)
    return weight


def sharpness(crops: Tensor) -> Tensor:
    """Gradient energy: the mean squared luminance gradient of uint8 [N, 3, S, S], on [0, 1]; float32 [N]."""
    return _gradient_energy(luminance(crops))


def already_sharp(before: Tensor, after: Tensor) -> Tensor:
    """Whether a step would make faces less sharp, bool [N]; FFHQ-aligned crops uint8 [N, 3, S, S].

    Compares gradient energy at the scale of facial detail, with the share of noise taken off, so that a step that
    removes noise is not mistaken for one that blurs; less than `KEPT_DETAIL` of it is less sharp.
    """
    return _detail(after) < KEPT_DETAIL * _detail(before)


def _gradient_energy(grey: Tensor) -> Tensor:
    return grey.diff(dim=-1).square().mean((1, 2)) + grey.diff(dim=-2).square().mean((1, 2))


def _detail(crops: Tensor) -> Tensor:
    """Gradient energy behind a Gaussian of one pixel in the middle of the face, less that of its flattest blocks.

    Noise and grain, of whatever size, lie everywhere; eyes, brows, mouth and the edges of the nose do not. (Second
    differences tell white noise only, and that of photos that were made larger is coarser.) Measured on 32 validation
    photos of CelebAMask-HQ with medium degradations, 31 of which a former release of the enhancer (r2) brought nearer
    to the clear photo: none is called less sharp (by second differences 5 were); blurred by half a pixel, all 32 clear
    photos are.
    """
    smooth = gaussian_blur(luminance(crops)[:, None], 1.0)
    energy = smooth.diff(dim=-1)[..., :-1, :].square() + smooth.diff(dim=-2)[..., :-1].square()
    side = crops.shape[-1]
    (top, bottom), (left, right) = ((round(a * side), round(b * side)) for a, b in (ROWS, COLUMNS))
    blocks = functional.adaptive_avg_pool2d(energy[..., top:bottom, left:right], DETAIL_BLOCKS).flatten(1)
    return (blocks.mean(1) - blocks.quantile(FLAT_SHARE, dim=1)).clamp(min=0)


def _low_frequencies(change: Tensor, region: Tensor) -> Tensor:
    """The smooth part of a change [N, 3, S, S], judged inside the region only (normalised convolution)."""
    size = change.shape[-1]
    sigma = size * COLOUR_SCALE
    weight = region[:, None].float()
    layers = torch.cat([change * weight, weight], 1)
    coarse = math.gcd(size, COARSE)  # on means of blocks: nothing finer is left, and at full size it takes long
    blurred = gaussian_blur(functional.avg_pool2d(layers, coarse), sigma / coarse)
    blurred = functional.interpolate(blurred, (size, size), mode="bilinear", align_corners=False)
    return blurred[:, :-1] / blurred[:, -1:].clamp(min=1e-3)


def _canvases(layers: Tensor, matrices: Tensor, height: int, width: int) -> list[tuple[Box, Tensor]]:
    """Faces seen in the photo: for each group that overlaps, its box and float32 [4, h, w], summed.

    `layers`: [N, 4, S, S], three channels of change and the weight; the canvas holds weighted changes and weights.
    """
    faces: list[tuple[Box, Tensor, Tensor]] = []
    for layer, matrix in zip(layers, matrices.double().cpu(), strict=True):
        box = _seen(layer[3], matrix, height, width)
        if box is not None:
            faces.append((box, layer, matrix))
    faces.sort(key=lambda face: (face[0], face[2].flatten().tolist()))  # sums do not depend on the order given
    canvases = []
    for members in _overlapping([box for box, _, _ in faces]):
        boxes = [faces[index][0] for index in members]
        left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
        right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
        canvas = layers.new_zeros((4, bottom - top, right - left))
        for index in members:
            box, layer, matrix = faces[index]
            seen = _to_photo(layer, matrix, box)
            canvas[:, box[1] - top : box[3] - top, box[0] - left : box[2] - left] += seen
        canvases.append(((left, top, right, bottom), canvas))
    return canvases


def _seen(weight: Tensor, matrix: Tensor, height: int, width: int) -> Box | None:
    """The box of the photo in which a crop's weight [S, S] is not 0; None where there is none."""
    rows, columns = weight.amax(1).nonzero(), weight.amax(0).nonzero()
    if not len(rows):
        return None
    # three pixels more, in the crop and below in the photo: what the kernels reach
    x0, x1 = float(columns[0]) - 3, float(columns[-1]) + 3
    y0, y1 = float(rows[0]) - 3, float(rows[-1]) + 3
    corners = torch.tensor([[[x0, y0], [x1, y0], [x0, y1], [x1, y1]]], dtype=torch.float64)
    points = transform_points(corners, invert(matrix[None]))[0]
    low, high = points.amin(0).floor() - 3, points.amax(0).ceil() + 4
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    right, bottom = min(width, int(high[0])), min(height, int(high[1]))
    return (left, top, right, bottom) if right > left and bottom > top else None


def _to_photo(layer: Tensor, matrix: Tensor, box: Box) -> Tensor:
    """Weighted change and weight [4, h, w] of one face in a box of its photo."""
    left, top, right, bottom = box
    shifted = matrix.clone()
    shifted[:, 2] += matrix[:, :2] @ matrix.new_tensor([left, top])
    seen = resample(layer, shifted, bottom - top, right - left)
    weight = seen[3:].clamp(0, 1)
    return torch.cat([seen[:3] * weight, weight])


def _overlapping(boxes: list[Box]) -> list[list[int]]:
    """Indices of boxes in groups, so that boxes of different groups do not touch."""
    groups: list[list[int]] = []
    for index, (left, top, right, bottom) in enumerate(boxes):
        touching: list[list[int]] = []
        apart: list[list[int]] = []
        for group in groups:
            hit = any(
                left < boxes[k][2] and boxes[k][0] < right and top < boxes[k][3] and boxes[k][1] < bottom for k in group
            )
            (touching if hit else apart).append(group)
        groups = [*apart, sorted([index, *(k for group in touching for k in group)])]
    return groups
