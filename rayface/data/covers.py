"""Things drawn before the lower half of aligned faces: masks, scarves, hands, microphones. Nothing grows on those."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rayface.imaging.filters import gaussian_blur
from rayface.records import FFHQ_TEMPLATE

Array = np.ndarray
KINDS = ("mask", "scarf", "bar")
CHIN = 0.95  # height of the chin in an aligned crop, as a share of its side
JITTER = 0.04  # of where a face's parts lie, shares of the side


def cover_faces(images: Tensor, chosen: Array, generators: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
    """Aligned faces float [N, 3, S, S] in [-1, 1], of which those `chosen`, bool [N], are covered by something.

    Gives them and where they are covered, float [N, 1, S, S] in [0, 1].
    """
    images, covers = images.clone(), images.new_zeros(len(images), 1, *images.shape[2:])
    for number in map(int, np.flatnonzero(chosen)):
        random, side = generators[number], images.shape[-1]
        shape = torch.from_numpy(_shape(random, side))[None, None]
        covers[number] = gaussian_blur(shape, side / 400)[0]
        cloth = torch.from_numpy(_cloth(random, side)).to(images)
        images[number] += covers[number] * (cloth - images[number])
    return images, covers


def _shape(random: np.random.Generator, side: int) -> Array:
    """Where it is: float32 [S, S] of 0 and 1."""
    rows, columns = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / side
    kind = KINDS[random.integers(len(KINDS))]
    nose, mouth = (FFHQ_TEMPLATE[place] + random.normal(0, JITTER, 2) for place in (slice(2, 3), slice(3, 5)))
    (across, nose_y), mouth_y = nose[0], float(mouth[:, 1].mean())
    if kind == "mask":
        top = nose_y - random.uniform(-0.03, 0.12)
        bottom = max(CHIN + random.normal(0, 0.05), mouth_y + 0.06)
        half = random.uniform(0.17, 0.3)
        middle = across + random.normal(0, 0.03)
        down = (rows - top) / (bottom - top)
        wide = half * (1 - random.uniform(0.2, 0.6) * np.clip(down - 0.35, 0, 1) ** random.uniform(1, 2))
        sag = random.uniform(-0.03, 0.05) * ((columns - middle) / half) ** 2
        return ((np.abs(columns - middle) < wide) & (rows > top + sag) & (rows < bottom)).astype(np.float32)
    if kind == "scarf":
        edge = random.uniform(nose_y, CHIN) + random.uniform(-0.2, 0.2) * (columns - 0.5)
        return (rows > edge + random.uniform(-0.3, 0.3) * (columns - 0.5) ** 2).astype(np.float32)
    end = np.array([across + random.normal(0, 0.1), random.uniform(nose_y, CHIN)])
    start = np.array([random.choice([-0.1, random.uniform(0, 1), 1.1]), 1.1])
    along = (start - end) / np.linalg.norm(start - end)
    x, y = columns - end[0], rows - end[1]
    far = np.clip(x * along[0] + y * along[1], 0, None)
    width = random.uniform(0.03, 0.1) * (1 + random.uniform(-0.5, 1) * far)
    return (np.hypot(x - far * along[0], y - far * along[1]) < width).astype(np.float32)


def _cloth(random: np.random.Generator, side: int) -> Array:
    """What it looks like: float32 [3, S, S] in [-1, 1]; any colour, skin's too, with folds and stripes."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    base = random.uniform(-0.9, 0.95)
    colour = base + (random.random() < 0.6) * random.uniform(-0.5, 0.5, 3)
    if random.random() < 0.25:  # a hand
        colour = random.uniform(0.3, 1.0) * np.array([1.6, 1.1, 0.9]) - 1
    coarse = torch.from_numpy(random.standard_normal((1, 1, 6, 6), np.float32))
    folds = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[0, 0].numpy()
    turn, many = random.uniform(-0.5, 0.5), random.uniform(4, 40)
    stripes = np.sin(2 * np.pi * many * (rows + turn * columns)) * (random.random() < 0.5)
    grain = random.standard_normal((side, side), np.float32) * random.uniform(0, 0.05)
    light = random.uniform(0.03, 0.2) * folds + random.uniform(0, 0.15) * stripes + grain
    return np.clip(np.broadcast_to(colour, 3)[:, None, None] + light, -1, 1).astype(np.float32)
