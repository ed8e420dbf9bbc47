"""A canvas with separate colour, light and class buffers, and the shapes that are painted on it.

Shading is deferred: shapes paint their own colour into `albedo`, the light that falls on them into `light`
and their highlights into `gloss`; `develop` multiplies them at the end. So make-up, beard, lips and skin all
take the head's light. Colours are kept as the square of the sRGB value (a cheap stand-in for linear light).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from rayface.randomness import generator

Array = np.ndarray
TEXTURE_SIDE = 768


def colour(red: float, green: float, blue: float) -> Array:
    """An sRGB colour of 0-255 as the canvas keeps it: float32 [3] in [0, 1], squared."""
    return (np.array([red, green, blue], np.float32) / 255) ** 2


@functools.cache
def texture(kind: str) -> Array:
    """A fixed noise picture, float32 [768, 768] with mean 0 and deviation 1, that wraps at its borders.

    Kinds: `grain` (white), `skin` (pores and blotches), `strand` (streaks along y), `cloud` (large and
    smooth).
    """
    white = generator(0, 0, 0, f"texture-{kind}").standard_normal((TEXTURE_SIDE, TEXTURE_SIDE)).astype(np.float32)
    frequency_y, frequency_x = np.fft.fftfreq(TEXTURE_SIDE)[:, None], np.fft.rfftfreq(TEXTURE_SIDE)[None]
    radius = np.hypot(frequency_y, frequency_x)
    gains = {
        "grain": np.ones_like(radius),
        "skin": np.exp(-((radius / 0.16) ** 2)) / (0.03 + radius),
        "strand": np.exp(-((frequency_y / 0.006) ** 2)) / (0.05 + np.abs(frequency_x)) * (np.abs(frequency_x) < 0.4),
        "cloud": np.exp(-((radius / 0.03) ** 2)) / (0.004 + radius),
    }
    noise = np.fft.irfft2(np.fft.rfft2(white) * gains[kind], s=white.shape)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def cut_texture(kind: str, rng: np.random.Generator, height: int, width: int, zoom: float = 1.0) -> Array:
    """A random piece of `texture(kind)`, float32 [height, width]; `zoom` > 1 makes its grain coarser."""
    bank = texture(kind)
    top, left = rng.integers(0, TEXTURE_SIDE, 2)
    rows = (top + (np.arange(height) / zoom).astype(np.intp)) % TEXTURE_SIDE
    columns = (left + (np.arange(width) / zoom).astype(np.intp)) % TEXTURE_SIDE
    return bank.take(rows, 0).take(columns, 1)


def varied(base: Array, factor: Array) -> Array:
    """A colour [3] made lighter and darker by `factor` [h, w]: float32 [3, h, w]."""
    return base.astype(np.float32)[:, None, None] * factor.astype(np.float32, copy=False)


@dataclass
class Region:
    """An anti-aliased shape: its top left pixel on the canvas and its cover, float32 [h, w] in [0, 1]."""

    top: int
    left: int
    alpha: Array

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def within(self, other: "Region", outside: bool = False) -> "Region":
        """This shape where `other` is (or, `outside`, is not)."""
        cover = np.zeros_like(self.alpha)
        y0, x0 = max(self.top, other.top), max(self.left, other.left)
        y1 = min(self.top + self.alpha.shape[0], other.top + other.alpha.shape[0])
        x1 = min(self.left + self.alpha.shape[1], other.left + other.alpha.shape[1])
        if y1 > y0 and x1 > x0:
            cover[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left] = other.alpha[
                y0 - other.top : y1 - other.top, x0 - other.left : x1 - other.left
            ]
        return Region(self.top, self.left, self.alpha * (1 - cover if outside else cover))


class Canvas:
    """The buffers of one picture of `height` x `width` pixels; `unit` is the eye distance in pixels."""

    def __init__(self, height: int, width: int, unit: float) -> None:
        self.height, self.width, self.unit = height, width, unit
        self.albedo = np.zeros((3, height, width), np.float32)
        self.light = np.full((height, width), 0.75, np.float32)
        self.gloss = np.zeros((height, width), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.facial_hair = np.zeros((height, width), bool)

    def _box(self, points: Array, margin: float) -> tuple[int, int, int, int]:
        x0, y0 = (points.min(0) - margin).tolist()
        x1, y1 = (points.max(0) + margin + 2).tolist()
        width, height = self.width, self.height
        left, top = min(max(math.floor(x0), 0), width), min(max(math.floor(y0), 0), height)
        return left, top, min(max(int(x1), 0), width), min(max(int(y1), 0), height)

    def _raster(self, curves: Sequence[Array], soft: float, line: float | None) -> Region:
        points = np.concatenate(curves) if len(curves) > 1 else curves[0]
        x0, y0, x1, y1 = self._box(points, (line or 0) + 2 * soft + 1)
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        factor: float = 4 if width * height < 8000 else 2
        if soft > 1.5 and (line is None or line > 3):
            small = min(width, height) <= 8
            factor = 1 if small or soft < 2 else 0.5 if soft < 6 else 0.25  # the blur hides the steps
        bitmap = Image.new("L", (math.ceil(width * factor), math.ceil(height * factor)))
        draw = ImageDraw.Draw(bitmap)
        for points in curves:
            vertices = ((points - (x0, y0) + 0.5) * factor - 0.5).ravel().tolist()
            if line is None:
                draw.polygon(vertices, fill=255)
            else:
                thickness = max(round(line * factor), 1)
                draw.line(vertices, fill=255, width=thickness, joint="curve" if thickness > 6 and soft < 1 else None)
        if factor > 1:
            bitmap = bitmap.reduce(int(factor))
        if soft > 0.5:
            bitmap = bitmap.filter(ImageFilter.GaussianBlur(soft * min(factor, 1)))
        if factor < 1:
            enlarged = (round(bitmap.width / factor), round(bitmap.height / factor))
            bitmap = bitmap.resize(enlarged, Image.Resampling.BILINEAR)
            bitmap = bitmap.crop((0, 0, width, height))
        alpha = np.asarray(bitmap, np.float32) * np.float32(1 / 255)
        if line is not None and line * factor < 1:  # thinner than Pillow can draw: fainter instead
            alpha = alpha * (line * factor)
        return Region(min(y0, self.height - 1), min(x0, self.width - 1), alpha[: self.height, : self.width])

    def polygon(self, points: Array, soft: float = 0.0) -> Region:
        """The inside of the outline `points` [n, 2] (pixels, x y), with edges blurred by `soft` pixels."""
        return self._raster([points], soft, None)

    def line(self, points: Array | Sequence[Array], width: float, soft: float = 0.0) -> Region:
        """A line of `width` pixels along `points` [n, 2], or several lines."""
        return self._raster([points] if isinstance(points, np.ndarray) else points, soft, width)

    def blob(self, centre: Array, sigma_x: float, sigma_y: float) -> Region:
        """A Gaussian spot of height 1."""

        def profile(middle: float, sigma: float, length: int) -> tuple[int, Array]:
            first = min(max(math.floor(middle - 2.6 * sigma), 0), length - 1)
            last = min(max(math.ceil(middle + 2.6 * sigma) + 1, first + 1), length)
            steps = (np.arange(first, last, dtype=np.float32) - np.float32(middle)) * np.float32(1 / sigma)
            return first, np.exp(np.float32(-0.5) * steps * steps)

        x, y = centre.tolist()
        left, across = profile(x, sigma_x, self.width)
        top, down = profile(y, sigma_y, self.height)
        return Region(top, left, down[:, None] * across)

    def paint(
        self,
        region: Region,
        paint: Array,
        *,
        opacity: float = 1.0,
        label: int | None = None,
        light: Array | float | None = None,
        gloss: Array | float | None = None,
    ) -> None:
        """Cover `region` with colour `paint` ([3] or [3, h, w]); light, gloss and class where given."""
        window = region.window
        alpha = region.alpha if opacity == 1 else region.alpha * np.float32(opacity)
        under = self.albedo[:, window[0], window[1]]
        change = paint.astype(np.float32, copy=False).reshape(3, *(paint.shape[1:] or (1, 1))) - under
        change *= alpha
        under += change
        if light is not None:
            self.light[window] += alpha * (light - self.light[window])
        if gloss is not None:
            self.gloss[window] += alpha * (gloss - self.gloss[window])
        if label is not None:
            np.copyto(self.labels[window], label, where=region.alpha > 0.5, casting="unsafe")

    def mark(self, region: Region, label: int) -> None:
        """Give `region` a class without painting it."""
        np.copyto(self.labels[region.window], label, where=region.alpha > 0.5, casting="unsafe")

    def tint(self, region: Region, factor: Array, opacity: float = 1.0) -> None:
        """Multiply the colours under `region` by `factor` [3]."""
        window = region.window
        change = (np.float32(opacity) * (factor - 1)).astype(np.float32)
        self.albedo[:, window[0], window[1]] *= 1 + region.alpha * change[:, None, None]

    def shade(self, region: Region, amount: float) -> None:
        """Take away (or, below 0, add) a share of the light under `region`."""
        self.light[region.window] *= 1 - region.alpha * np.float32(amount)

    def develop(self, ambient: Array, key: Array) -> Array:
        """The lit picture, float32 [3, H, W], sRGB in [0, 1] and above where overexposed."""
        lit = self.light * key[:, None, None]
        lit += ambient[:, None, None]
        lit *= self.albedo
        lit += self.gloss * key[:, None, None]
        return np.sqrt(np.maximum(lit, 0, out=lit), out=lit)
