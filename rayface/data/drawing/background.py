"""What is behind the people: gradients, blurred rooms and streets, clutter, foliage."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from rayface.data.drawing.canvas import Canvas, cut_texture

Array = np.ndarray


def draw_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the canvas; the class stays background."""
    height, width = canvas.height, canvas.width
    shrink = int(rng.choice([1, 2, 4])) if rng.random() < 0.6 else 4
    small = (max(width // shrink, 8), max(height // shrink, 8))
    picture = _gradient(rng, small)
    if rng.random() < 0.75:
        _clutter(picture, rng)
    if shrink > 1 or rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 3.0))))
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    full = np.asarray(resized).transpose(2, 0, 1).astype(np.float32, order="C") / 255
    if rng.random() < 0.4:
        kind = str(rng.choice(["cloud", "skin", "strand"]))
        full *= 1 + np.float32(rng.uniform(0.03, 0.2)) * cut_texture(kind, rng, height, width, rng.uniform(0.7, 3))
    np.clip(full, 0, 1, out=full)
    np.multiply(full, full, out=canvas.albedo)


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Four random corner colours, blended."""
    grey = rng.uniform(20, 235)
    spread = rng.choice([6, 12, 35])
    fall = rng.normal(0, 30, (2, 2, 1))
    corners = np.clip(grey + fall + rng.normal(0, spread, 3) + rng.normal(0, spread / 2, (2, 2, 3)), 5, 250)
    return Image.fromarray(corners.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def _clutter(picture: Image.Image, rng: np.random.Generator) -> None:
    """Boxes, discs, bars and frames at random places, partly like windows, shelves and lights."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    chroma = rng.choice([6, 14, 45])
    for _ in range(rng.integers(3, 22)):
        x, y = rng.uniform(-0.2, 1.1) * width, rng.uniform(-0.2, 1.1) * height
        w, h = rng.beta(1, 3, 2) * (width, height) * 0.8 + 1
        tone = tuple(int(c) for c in np.clip(rng.normal(rng.uniform(20, 235), chroma, 3), 0, 255))
        shape = rng.integers(5)
        if shape == 0:
            draw.ellipse((x, y, x + w, y + w), fill=tone)
        elif shape == 1:
            draw.line((x, y, x + rng.normal() * width, y + rng.normal() * height), fill=tone, width=int(1 + w * 0.1))
        elif shape == 2:
            draw.polygon([(x, y), (x + w, y + rng.normal() * h), (x + rng.normal() * w, y + h)], fill=tone)
        elif shape == 3:
            draw.rectangle((x, y, x + w, y + h), outline=tone, width=int(1 + w * 0.08))
        else:
            draw.rectangle((x, y, x + w, y + h), fill=tone)
