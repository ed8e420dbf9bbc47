"""Where facial hair grows on a face: drawn beards, whose masks are exact, carried over by what the parser sees.

A face's lower half has coordinates of its own: the mouth's middle is (0, 0), the edges of the face at the mouth's
height are -1 and 1 across, the chin's lower edge is 1 down and the nose's lower edge is 1 up. Drawn beards are averaged
in these; a photo's parsed face says where they lie in it.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.records import PARSING_ID

ACROSS, UP, DOWN = 1.3, 4.0, 1.4  # what of the coordinates the table covers
TABLE_SIDE = 64
DRAWN = 40  # faces a style
DRAWN_SIDE = 96
MOUTH, NOSE = ("mouth", "u_lip", "l_lip"), ("nose",)
FACE = ("skin", *MOUTH, *NOSE)
# Where a part that is not seen is taken to be, and how far from there it may be, in shares of the side.
USUAL = {"x": 0.5, "y": 0.73, "left": 0.27, "right": 0.73, "nose": 0.645, "chin": 0.92}
UNUSUAL = 0.17
LEAST = 0.03  # between two marks


def facial_hair_zones(masks: Tensor) -> Tensor:
    """Face parts uint8 or int64 [N, S, S] -> how likely hair grows at each pixel in each of FACIAL_HAIR_ZONES.

    Float [N, 3, S, S] in [0, 1] for someone who wears it there; 0 off the skin. The zones do not overlap: their sum is
    at most 1.
    """
    table = zone_table().to(masks.device)
    points = _coordinates(masks)
    found = F.grid_sample(table.expand(len(masks), -1, -1, -1), points, align_corners=False, padding_mode="zeros")
    return found * (masks == PARSING_ID["skin"])[:, None]


@functools.cache
def zone_table() -> Tensor:
    """Mean cover of drawn beards in a face's own coordinates, float [1, 3, TABLE_SIDE, TABLE_SIDE], left as right."""
    covers = {style: _mean_cover(style) for style in ("moustache", "goatee", "full")}
    moustache = covers["moustache"]
    chin = (covers["goatee"] - moustache).clamp_min(0)
    jaw = (covers["full"] - chin - moustache).clamp_min(0)
    table = torch.cat([moustache, chin, jaw], 1)
    return (table + table.flip(-1)) / 2


def _mean_cover(style: str) -> Tensor:
    from rayface.data.synth import RECORDS_PER_IDENTITY, DrawnFace, draw_face, identity_of

    faces: list[DrawnFace] = []
    identity = 0
    while len(faces) < DRAWN:
        if identity_of(0, identity).beard == style:
            face = draw_face(0, identity * RECORDS_PER_IDENTITY, DRAWN_SIDE)
            faces += [face] if face.facial_hair_style == style else []  # they shave at times
        identity += 1
    masks = torch.stack([face.mask for face in faces])
    hair = torch.stack([face.facial_hair for face in faces])[:, None].float() / 255
    return F.grid_sample(hair, _places(masks), align_corners=False).mean(0, keepdim=True)


def _marks(masks: Tensor) -> dict[str, Tensor]:
    """Where the mouth, the face's edges beside it, the nose's end and the chin are, in shares of the side, [N] each."""
    side = masks.shape[-1]
    places = (torch.arange(side, device=masks.device) + 0.5) / side

    def seen(names: Sequence[str]) -> Tensor:
        return torch.isin(masks.long(), torch.tensor([PARSING_ID[name] for name in names], device=masks.device))

    def middle(of: Tensor, usual: float, count: Tensor) -> Tensor:
        mean = (of.float() * places).sum(1) / count.clamp_min(1)
        return torch.where(count > 0, mean, usual)

    def first(of: Tensor, usual: float) -> Tensor:  # bool [N, S]
        return torch.where(of.any(1), places[of.float().argmax(1)], usual)

    def last(of: Tensor, usual: float) -> Tensor:
        return torch.where(of.any(1), places[side - 1 - of.flip(1).float().argmax(1)], usual)

    mouth, face = seen(MOUTH), seen(FACE)
    count = mouth.sum((1, 2))
    x, y = middle(mouth.sum(1), USUAL["x"], count), middle(mouth.sum(2), USUAL["y"], count)
    x, y = _usual(x, "x"), _usual(y, "y")
    beside = (face & ((places[:, None] - y[:, None, None]).abs() < 0.02)).any(1)
    below = (face & ((places - x[:, None, None]).abs() < 0.08)).any(2)
    return {
        "x": x,
        "y": y,
        "left": torch.minimum(_usual(first(beside, USUAL["left"]), "left"), x - LEAST),
        "right": torch.maximum(_usual(last(beside, USUAL["right"]), "right"), x + LEAST),
        "nose": torch.minimum(_usual(last(seen(NOSE).any(2), USUAL["nose"]), "nose"), y - LEAST),
        "chin": torch.maximum(_usual(last(below, USUAL["chin"]), "chin"), y + LEAST),
    }


def _usual(value: Tensor, name: str) -> Tensor:
    return value.clamp(USUAL[name] - UNUSUAL, USUAL[name] + UNUSUAL)


def _coordinates(masks: Tensor) -> Tensor:
    """For every pixel where it lies in the table, as `grid_sample` takes it: float [N, S, S, 2]."""
    side = masks.shape[-1]
    marks = {name: value[:, None] for name, value in _marks(masks).items()}
    places = ((torch.arange(side, device=masks.device) + 0.5) / side)[None]
    across, down = places - marks["x"], places - marks["y"]
    across = across / torch.where(across < 0, marks["x"] - marks["left"], marks["right"] - marks["x"])
    down = down / torch.where(down < 0, marks["y"] - marks["nose"], marks["chin"] - marks["y"])
    columns, rows = across / ACROSS, 2 * (down + UP) / (UP + DOWN) - 1
    return torch.stack([columns[:, None].expand(-1, side, -1), rows[:, :, None].expand(-1, -1, side)], -1)


def _places(masks: Tensor) -> Tensor:
    """For every place of the table where it lies in each picture, as `grid_sample` takes it: float [N, T, T, 2]."""
    marks = {name: value[:, None] for name, value in _marks(masks).items()}
    steps = ((torch.arange(TABLE_SIDE, device=masks.device) + 0.5) / TABLE_SIDE)[None]
    across, down = (2 * steps - 1) * ACROSS, steps * (UP + DOWN) - UP
    x = marks["x"] + across * torch.where(across < 0, marks["x"] - marks["left"], marks["right"] - marks["x"])
    y = marks["y"] + down * torch.where(down < 0, marks["y"] - marks["nose"], marks["chin"] - marks["y"])
    columns, rows = 2 * x - 1, 2 * y - 1
    return torch.stack([columns[:, None].expand(-1, TABLE_SIDE, -1), rows[:, :, None].expand(-1, -1, TABLE_SIDE)], -1)
