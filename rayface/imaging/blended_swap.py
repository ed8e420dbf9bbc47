"""The face swap of before networks: one face warped onto another by landmarks, its colours matched, Poisson-blended.

The swap detector never trains on it: it is what detection is measured on beside its own method (SPEC E6). Warp: the
affine map that fits the landmarks best. Colours: mean and deviation (Reinhard et al. 2001). Blending: seamless cloning
(Perez et al. 2003) in its membrane form (Farbman et al. 2009): the donor plus what is harmonic inside the face and
makes up for the difference at its edge.
"""

import torch
from torch import Tensor
from torch.nn import functional

from rayface.records import PARSING_ID

FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
SHRINK = 0.012  # share of the side by which a parsed face is made smaller: its edge lies on skin
ITERATIONS, TOLERANCE = 300, 0.01  # of the solver; the largest residual that is left, in levels of 255
COARSEST = 24  # px to a side, solved without a first guess


def swap_faces(
    texture: Tensor,
    donor: Tensor,
    texture_landmarks: Tensor,
    donor_landmarks: Tensor,
    texture_masks: Tensor | None = None,
    donor_masks: Tensor | None = None,
) -> Tensor:
    """The donors' faces in the texture's photos: uint8 [N, 3, S, S], equal to `texture` outside of `swapped_region`.

    `texture`, `donor`: uint8 [N, 3, S, S]; landmarks: float [N, 5, 2] in pixels; masks: uint8 [N, S, S], ids of
    records.PARSING_CLASSES, without which the face is an ellipse.
    """
    grids = _grids(affine_maps(texture_landmarks, donor_landmarks), texture.shape[-1])
    warped = _sample(donor.float(), grids, "bicubic").clamp(0, 255)
    region = swapped_region(texture_landmarks, texture.shape[-1], texture_masks)
    if donor_masks is not None:  # no hair of the donor's on the forehead
        face = _sample(parsed_face(donor_masks)[:, None].float(), grids, "bilinear")[:, 0] > 0.5
        both = region & face
        enough = both.sum((1, 2)) > region.sum((1, 2)) / 2  # else one of the two was parsed badly
        region = torch.where(enough[:, None, None], both, region)
    matched = match_colours(warped, texture.float(), region)
    swapped = matched + membrane(texture.float() - matched, region)
    mixed = torch.where(region[:, None], swapped, texture.float())
    return mixed.round().clamp(0, 255).to(torch.uint8)


def swapped_region(landmarks: Tensor, side: int, masks: Tensor | None = None) -> Tensor:
    """What of a crop is swapped: bool [N, S, S], never its outermost pixels. Arguments as of `swap_faces`."""
    region = face_ellipse(landmarks, side)
    if masks is not None:
        region = region & (_shrunk(parsed_face(masks), round(SHRINK * side)))
    region[:, [0, -1]] = False
    region[:, :, [0, -1]] = False
    return region


def parsed_face(masks: Tensor) -> Tensor:
    """Where masks uint8 [N, S, S] say that the face itself is, without ears and hair: bool [N, S, S]."""
    return torch.isin(masks, torch.tensor([PARSING_ID[name] for name in FACE], dtype=masks.dtype))


def face_ellipse(landmarks: Tensor, side: int, grow: float = 1.0) -> Tensor:
    """An ellipse around the brows, cheeks and chin of faces with landmarks float [N, 5, 2]: bool [N, S, S]."""
    return face_distance(landmarks, side) <= grow


def face_distance(landmarks: Tensor, side: int) -> Tensor:
    """How far each pixel is from the middle of that ellipse: float [N, S, S], 1 at its edge."""
    points = landmarks.double()
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    down = mouth - eyes
    length = down.norm(dim=1, keepdim=True).clamp_min(1e-6)
    axis = down / length
    width = torch.maximum((points[:, 1] - points[:, 0]).norm(dim=1, keepdim=True), length * 0.8)
    middle = eyes + 0.52 * down
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    offset = torch.stack([x, y], -1).double() - middle[:, None, None]
    along = (offset * axis[:, None, None]).sum(-1) / (1.38 * length[:, None])
    across = (offset[..., 0] * axis[:, 1, None, None] - offset[..., 1] * axis[:, 0, None, None]) / (
        1.02 * width[:, None]
    )
    return (along.square() + across.square()).sqrt().float()


def match_colours(donor: Tensor, texture: Tensor, region: Tensor) -> Tensor:
    """`donor` with the mean and deviation that each channel of `texture` has in `region`; float [N, 3, S, S]."""
    (mean, deviation), (wanted_mean, wanted_deviation) = _moments(donor, region), _moments(texture, region)
    gain = (wanted_deviation / deviation.clamp_min(1e-3)).clamp(0.67, 1.5)
    return (donor - mean) * gain + wanted_mean


def membrane(edge: Tensor, region: Tensor) -> Tensor:
    """What is `edge` [N, C, S, S] outside of `region` bool [N, S, S], and harmonic inside; float32 of edge's shape.

    The region must not touch the border.
    """
    result = edge.float().clone()
    for picture, where in zip(result, region, strict=True):
        if where.any():
            (top, left), (bottom, right) = (
                (where.nonzero().amin(0) - 1).tolist(),
                (where.nonzero().amax(0) + 2).tolist(),
            )
            part = picture[:, top:bottom, left:right]
            part.copy_(_solved(part[None], where[None, top:bottom, left:right])[0])
    return result


def _solved(edge: Tensor, region: Tensor) -> Tensor:
    """As `membrane`: conjugate gradients on the five-point Laplace equation, begun with that of half the size."""
    inside = region[:, None].float()
    if min(edge.shape[-2:]) > COARSEST:
        h = torch.where(inside > 0, _coarse_membrane(edge, region), edge)
    else:
        h = edge * (1 - inside)
    residual = (_neighbours(h) - 4 * h) * inside
    direction = residual.clone()
    size = residual.square().sum((2, 3), keepdim=True)
    for _ in range(ITERATIONS):
        if float(residual.abs().max()) < TOLERANCE:
            break
        image = (4 * direction - _neighbours(direction)) * inside
        step = size / (direction * image).sum((2, 3), keepdim=True).clamp_min(1e-20)
        h = h + step * direction
        residual = residual - step * image
        new = residual.square().sum((2, 3), keepdim=True)
        direction = residual + new / size.clamp_min(1e-20) * direction
        size = new
    return h


def _coarse_membrane(edge: Tensor, region: Tensor) -> Tensor:
    """The membrane of half the size, enlarged. What is known there is the mean of what is known of four pixels."""
    known = (~region[:, None]).float()
    pooled, share = functional.avg_pool2d(edge * known, 2), functional.avg_pool2d(known, 2)
    half = _solved(pooled / share.clamp_min(0.25), share[:, 0] == 0)
    return functional.interpolate(half, edge.shape[-2:], mode="bilinear")


def _neighbours(x: Tensor) -> Tensor:
    """The sum of each pixel's four neighbours, those beyond the border 0."""
    total = torch.zeros_like(x)
    total[..., 1:, :] += x[..., :-1, :]
    total[..., :-1, :] += x[..., 1:, :]
    total[..., 1:] += x[..., :-1]
    total[..., :-1] += x[..., 1:]
    return total


def _moments(images: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel in the region, float [N, 3, 1, 1]."""
    where = region[:, None].float()
    count = where.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (images * where).sum((2, 3), keepdim=True) / count
    return mean, ((images - mean).square() * where).sum((2, 3), keepdim=True).div(count).sqrt()


def _shrunk(region: Tensor, radius: int) -> Tensor:
    """Bool [N, S, S] without what lies within `radius` pixels of its edge, holes of that size filled first."""
    if radius < 1:
        return region
    width = 2 * radius + 1
    filled = functional.max_pool2d(region[:, None].float(), width, 1, radius)
    return -functional.max_pool2d(-filled, 2 * width - 1, 1, 2 * radius)[:, 0] > 0.5


def affine_maps(to: Tensor, source: Tensor) -> Tensor:
    """The affine maps that best take points `to` [N, P, 2] to `source` [N, P, 2], least squares: float64 [N, 2, 3]."""
    points = torch.cat([to.double(), torch.ones(*to.shape[:2], 1, dtype=torch.float64)], 2)
    # the change is solved for: equal points give exactly no change
    change = torch.linalg.lstsq(points, source.double() - to.double()).solution.transpose(1, 2)
    return change + torch.eye(2, 3, dtype=torch.float64)


def _grids(maps: Tensor, side: int) -> Tensor:
    """Where each pixel of the results lies in the donors: float64 [N, S, S, 2]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double()
    return torch.einsum("hwk,nck->nhwc", pixels, maps)


def _sample(images: Tensor, grids: Tensor, mode: str) -> Tensor:
    grid = (grids * (2 / (images.shape[-1] - 1)) - 1).to(images.dtype)
    return functional.grid_sample(images, grid, mode, padding_mode="border", align_corners=True)
