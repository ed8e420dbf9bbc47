"""Glasses drawn on photos of faces without: more examples of what few people wear, and the label changes with them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rayface.imaging.filters import gaussian_blur

Array = np.ndarray
# Of a lens: how square (power of a superellipse), half the width, half the height, in distances between the eyes.
SHAPES = ((2.0, 0.36, 0.34), (4.0, 0.41, 0.27), (2.5, 0.40, 0.31), (3.0, 0.42, 0.35), (2.2, 0.39, 0.25))


def wear_glasses(images: Tensor, landmarks: Tensor, chosen: Array, generators: Sequence[np.random.Generator]) -> Tensor:
    """Faces float [N, 3, S, S] in [-1, 1], of which those `chosen`, bool [N], get glasses of some kind.

    `landmarks` float [N, 5, 2]: eyes, nose and corners of the mouth in pixels, as in a data set.
    """
    images = images.clone()
    for number in map(int, np.flatnonzero(chosen)):
        images[number] = _with_glasses(images[number], landmarks[number].numpy(), generators[number])
    return images


def _with_glasses(image: Tensor, landmarks: Array, random: np.random.Generator) -> Tensor:
    side, light = image.shape[-1], 0.5 + 0.5 * float(image.mean())
    x, y, turn, pixel = _coordinates(landmarks, side)
    power, wide, high = SHAPES[random.integers(len(SHAPES))]
    sun, metal = random.random() < 0.15, random.random() < 0.3
    scale = (1.1 if sun else 1.0) * random.uniform(0.93, 1.07)
    wide, high = min(wide * scale, 0.45), high * scale * random.uniform(0.9, 1.15)
    width = random.uniform(0.02, 0.035) if metal else random.uniform(0.035, 0.1)
    frame, lenses = np.zeros((2, side, side), np.float32)
    for eye in (-1, 1):
        near = 1 - 0.5 * eye * turn  # the lens on the side that is turned away is narrower
        distance = _from_edge((x - 0.5 * eye) / near, y - 0.08, power, wide, high) * near
        lenses = np.maximum(lenses, _covered(distance, pixel))
        frame = np.maximum(frame, _covered(np.abs(distance) - width / 2, pixel))
        outer = 0.5 * eye + eye * wide * near
        if eye * turn < 0.3:  # else that arm is behind the face
            arm = np.abs(y + 0.04 - 0.05 * (x - outer) * eye) - width / 2
            arm = np.maximum(arm, np.maximum((outer - x) * eye, (x - outer) * eye - 0.32 * near))
            frame = np.maximum(frame, _covered(arm, pixel))
    inner = [-0.5 + wide * (1 + 0.5 * turn), 0.5 - wide * (1 - 0.5 * turn)]
    middle, half = sum(inner) / 2, max((inner[1] - inner[0]) / 2, 0.02)
    bridge = np.abs(y + 0.02 + 0.06 * (1 - ((x - middle) / half) ** 2)) - width / 2
    frame = np.maximum(frame, _covered(np.maximum(bridge, np.abs(x - middle) - half), pixel))
    colour = _frame_colour(metal, random) * (0.4 + 0.6 * light)
    tint = random.uniform(0, 0.12, 3) if sun else random.uniform(0.6, 1.0, 3)
    glare = np.exp(-(((x + y * 0.7 + random.uniform(-0.8, 0.8)) / random.uniform(0.04, 0.15)) ** 2))
    lens = lenses * (random.uniform(0.6, 0.97) if sun else random.uniform(0.0, 0.1))
    return _laid_over(image, frame, colour, lens, tint, lenses * glare * random.uniform(0, 0.25))


def _coordinates(landmarks: Array, side: int) -> tuple[Array, Array, float, float]:
    """Where each pixel is from between the eyes, along and across the line through them, in distances between them;
    how far the face is turned, in [-0.5, 0.5], right positive; and a pixel's size."""
    left, right, nose = landmarks[:3].astype(np.float64)
    between = max(float(np.linalg.norm(right - left)), 1.0)
    along = (right - left) / between
    rows, columns = np.mgrid[:side, :side].astype(np.float32) + 0.5
    from_middle = np.stack([columns, rows], -1) - ((left + right) / 2).astype(np.float32)
    axes = (np.array([along, [-along[1], along[0]]]) / between).astype(np.float32)
    x, y = from_middle @ axes[0], from_middle @ axes[1]
    turn = float(np.clip((nose - (left + right) / 2) @ along / between, -0.5, 0.5))
    return x + 0.1 * turn, y, turn, 1 / between


def _from_edge(x: Array, y: Array, power: float, wide: float, high: float) -> Array:
    """About how far outside a superellipse's edge a place lies; negative inside."""
    level = (np.abs(x / wide) ** power + np.abs(y / high) ** power + 1e-9) ** (1 / power)
    slope = np.hypot(
        level ** (1 - power) * np.abs(x / wide) ** (power - 1) / wide,
        level ** (1 - power) * np.abs(y / high) ** (power - 1) / high,
    )
    return (level - 1) / np.maximum(slope, 1e-3)


def _covered(distance: Array, pixel: float) -> Array:
    """How much of a pixel is within an outline, in [0, 1]."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _frame_colour(metal: bool, random: np.random.Generator) -> Array:
    if metal:
        return random.uniform(0.35, 0.75) * np.array([1.0, random.uniform(0.8, 1.0), random.uniform(0.5, 1.0)])
    dark = random.uniform(0.02, 0.2)
    return dark + random.random() ** 4 * random.uniform(0, 0.5, 3)


def _laid_over(image: Tensor, frame: Array, colour: Array, lens: Array, tint: Array, glare: Array) -> Tensor:
    over, within, shine = (torch.from_numpy(layer).float() for layer in (frame, lens, glare))
    side = image.shape[-1]
    shadow = gaussian_blur(over[None, None].roll(max(side // 64, 1), -2), side / 90)[0, 0]
    light = (image + 1) / 2 * (1 - 0.3 * shadow)
    light = light + within * (torch.from_numpy(tint).float()[:, None, None] - light)
    light = light + shine * (1 - light)
    light = light + over * (torch.from_numpy(colour).float()[:, None, None] - light)
    return light * 2 - 1
