"""The head itself: outline, neck, ears, skin and the light on it."""

from dataclasses import dataclass, field

import numpy as np

from rayface.data.drawing.canvas import Canvas, Region, colour, cut_texture
from rayface.data.drawing.geometry import View, mirrored, smooth, surface_depth
from rayface.data.drawing.person import SKIN_TONES, Identity, Look
from rayface.records import PARSING_ID

Array = np.ndarray

ASYMMETRY = 0.035  # how far features move at most (one deviation), in eye distances


@dataclass
class Sitter:
    """One person on one canvas: what every drawing function needs."""

    canvas: Canvas
    view: View
    who: Identity
    look: Look
    rng: np.random.Generator
    skin: Array = field(init=False)  # colour [3]
    face: Region = field(init=False)

    def __post_init__(self) -> None:
        tone = min(self.who.tone, len(SKIN_TONES) - 1.001)
        low = int(tone)
        mixed = SKIN_TONES[low] * (low + 1 - tone) + SKIN_TONES[low + 1] * (tone - low)
        self.skin = colour(*(mixed * (1 + 0.025 * self.who.warmth * np.array([0.3, -1, -1.5]))))

    @property
    def unit(self) -> float:
        return self.view.unit

    def pixels(self, x: float, y: float) -> Array:
        """A displacement in eye distances as pixels, [2]."""
        return np.array([x, y]) * self.unit

    def shift(self, index: int, size: float = ASYMMETRY) -> float:
        """The displacement of one feature by the person's asymmetry, in eye distances."""
        return self.who.displacement[index] * self.who.asymmetry * size


def landmarks(who: Identity, look: Look) -> Array:
    """The five points in head coordinates, [5, 3]: pupils, tip of the nose, corners of the mouth."""
    tilt = ASYMMETRY
    eyes = [[-0.5, who.displacement[0] * who.asymmetry * tilt], [0.5, who.displacement[1] * who.asymmetry * tilt]]
    nose = [[who.displacement[2] * who.asymmetry * tilt, 0.6 * who.nose_length]]
    left, right = mouth_corners(who, look)
    flat = np.array([*eyes, *nose, left, right])
    return np.column_stack([flat, surface_depth(flat) + np.array([-0.1, -0.1, 0.26, 0, 0])])


def mouth_corners(who: Identity, look: Look) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left and right corner on the face."""
    half = 0.42 * who.mouth_width * (1 + 0.14 * look.smile - 0.06 * look.mouth_open)
    y = 1.055 - 0.07 * look.smile
    lean = who.displacement[3] * who.asymmetry * ASYMMETRY
    return (-half, y + lean), (half, y - lean)


def chin(who: Identity, look: Look) -> float:
    """y of the lowest point of the chin."""
    return 1.72 * who.chin_length + 0.1 * look.mouth_open


def outline(who: Identity, look: Look) -> Array:
    """The face's outline in head coordinates, [n, 3], from the hairline's middle clockwise."""
    width, full, bottom = 1.05 * who.width, 0.07 * who.fullness, chin(who, look)
    half = [
        (0, -1.48, 0.3), (0.5, -1.36, 0.3), (0.88 * who.width, -0.95, 0.22), (width * 0.965, -0.4, 0.2),
        (width * 0.985, 0.0, 0.2), (width * 0.97 + full * 0.4, 0.42, 0.2), (width * 0.88 * who.jaw + full, 0.85, 0.26),
        (width * 0.71 * who.jaw + full * 1.3, 1.22, 0.38), (0.42 * who.chin + full, bottom - 0.17, 0.58),
        (0.2 * who.chin, bottom - 0.03, 0.7), (0, bottom, 0.74),
    ]  # fmt: skip
    points = mirrored(np.array(half))
    points[:, 0] += who.displacement[4] * who.asymmetry * ASYMMETRY * np.clip(points[:, 1], 0, None)
    return smooth(points, 5)


def draw_neck(s: Sitter) -> None:
    """Neck and upper chest, darker under the chin."""
    width = (0.83 if s.who.male else 0.66) * s.who.width + 0.12 * s.who.fullness
    half = [
        (0, 0.7, -0.2), (width, 0.7, -0.2), (width * 0.98, 1.5, -0.15), (width * 1.12, 1.78, -0.1),
        (1.7, 2.1, -0.1), (2.4, 2.5, -0.1), (2.6, 4.5, 0), (2.6, 14, 0), (0, 14, 0),
    ]  # fmt: skip
    region = s.canvas.polygon(s.view.project(smooth(mirrored(np.array(half)), 4)))
    light = 0.62 - 0.12 * s.look.light_azimuth * _across(s, region)
    s.canvas.paint(region, s.skin * np.array([0.95, 0.9, 0.88], np.float32), label=PARSING_ID["neck"], light=light)
    shadow = s.canvas.blob(s.view.at(0, chin(s.who, s.look) + 0.02), 0.75 * s.unit, 0.28 * s.unit)
    s.canvas.shade(shadow.within(region), 0.62)
    muscle = smooth(np.array([(width * 0.75, 1.3, -0.1), (0.3, 2.1, 0.1), (0.14, 2.3, 0.15)]), 5, closed=False)
    both = [s.view.project(muscle * (side, 1, 1)) for side in (-1, 1)]
    s.canvas.shade(s.canvas.line(both, 0.08 * s.unit, 0.05 * s.unit).within(region), 0.1)


def _across(s: Sitter, region: Region) -> Array:
    """-1 to 1 from the left to the right of the head, [1, w]; away from the light is positive."""
    centre = s.view.at(0, 1.2)[0]
    columns = np.arange(region.left, region.left + region.alpha.shape[1], dtype=np.float32)
    return -np.clip((columns - centre) / s.unit, -1.2, 1.2)[None]


def draw_ears(s: Sitter) -> None:
    """Both ears; the hair that may hide them comes later."""
    width = 1.03 * s.who.width
    rim = np.array([(-0.1, -0.12), (0.1, -0.25), (0.21, -0.12), (0.19, 0.14), (0.1, 0.42), (0.0, 0.5), (-0.1, 0.4)])
    for side, label in ((-1, "r_ear"), (1, "l_ear")):
        shape = np.column_stack([side * (width + rim[:, 0] * s.who.ears), rim[:, 1] * s.who.ears + 0.08, rim[:, 0] * 0])
        region = s.canvas.polygon(s.view.project(smooth(shape - (0, 0, 0.1), 4)))
        light = 0.68 + 0.22 * side * np.sin(s.look.light_azimuth)
        ear_colour = s.skin * np.array([1.0, 0.86, 0.82], np.float32)
        s.canvas.paint(region, ear_colour, label=PARSING_ID[label], light=light, gloss=0.01)
        inner = shape * (0.999, 0.72, 1) + (-side * 0.02, 0.04, -0.1)
        hollow = s.canvas.line(s.view.project(smooth(inner[1:6], 4, closed=False)), 0.035 * s.unit, 0.02 * s.unit)
        s.canvas.shade(hollow.within(region), 0.35)
        hole = s.canvas.blob(
            s.view.project(np.array([[side * (width + 0.03), 0.18, -0.1]]))[0], 0.05 * s.unit, 0.1 * s.unit
        )
        s.canvas.shade(hole.within(region), 0.4)


def draw_skin(s: Sitter) -> None:
    """The face's skin with its light: everything on the face is painted over it."""
    region = s.canvas.polygon(s.view.project(outline(s.who, s.look)))
    s.face = region
    height, width = region.alpha.shape
    light, gloss = head_light(s, region)
    pores = cut_texture("skin", s.rng, height, width, zoom=max(s.unit / 90, 0.5))
    strength = 0.01 + 0.035 * s.who.roughness + 0.015 * s.who.age
    skin = np.stack(
        [s.skin[channel] * (1 + np.float32(strength * red) * pores) for channel, red in enumerate((0.6, 1, 1.1))]
    )
    s.canvas.paint(region, skin, label=PARSING_ID["skin"], light=light, gloss=gloss)
    red = np.array([1.0, 0.8, 0.78], np.float32)
    for x, y, wide, high, amount in (
        (-0.62, 0.55, 0.3, 0.25, 0.3), (0.62, 0.55, 0.3, 0.25, 0.3), (0, 0.55, 0.16, 0.16, 0.3),
        (0, 1.5, 0.3, 0.2, 0.2),
    ):  # fmt: skip
        s.canvas.tint(s.canvas.blob(s.view.at(x, y), wide * s.unit, high * s.unit).within(region), red, amount)
    if s.look.rosy:
        for side in (-1, 1):
            cheek = s.canvas.blob(s.view.at(side * 0.68, 0.52), 0.26 * s.unit, 0.2 * s.unit).within(region)
            s.canvas.tint(cheek, np.array([1.02, 0.62, 0.62], np.float32), 0.75)


def _bumps(s: Sitter) -> Array:
    """Relief on the ellipsoid, [n, 5]: x, y, extent in x and in y, height (eye distances)."""
    who, look, length = s.who, s.look, s.who.nose_length
    side = s.shift(2)
    ridge = [(side, y * length, 0.115, 0.12, 0.07 + 0.2 * y) for y in (0.0, 0.15, 0.3, 0.45)]
    tip = 0.14 - 0.04 * who.nose_point
    lift = max(look.smile, 0.0)
    rows = [*ridge, (side, 0.6 * length, tip * who.nose_width, tip * 0.85, 0.17 + 0.06 * who.nose_point)]
    for m in (-1, 1):
        rows += [
            (m * 0.21 * who.nose_width, 0.66 * length, 0.085, 0.085, 0.1),
            (m * 0.45, -0.3, 0.34, 0.11, 0.07 if who.male else 0.045),
            (m * 0.36, -0.02, 0.24, 0.17, -0.1), (m * 0.5, 0.0, 0.19, 0.12, 0.055),
            (m * 0.7, 0.5 - 0.06 * lift, 0.24, 0.2, 0.04 + 0.06 * who.cheekbones + 0.06 * lift + 0.05 * who.fullness),
            (m * 0.72, 0.95, 0.2, 0.25, -0.05 * who.cheekbones * (1 - who.fullness)),
            (m * 0.95, -0.5, 0.2, 0.3, -0.06), (m * 0.42, -0.75, 0.4, 0.25, 0.04),
        ]  # fmt: skip
    bottom = chin(who, look)
    rows += [
        (0, 0.93, 0.3, 0.12, 0.05), (0, 0.88, 0.05, 0.09, -0.02), (0, 1.17 + 0.1 * look.mouth_open, 0.22, 0.07, 0.05),
        (0, 1.33 + 0.1 * look.mouth_open, 0.24, 0.06, -0.05), (0, bottom - 0.22, 0.2 * who.chin, 0.14, 0.1),
    ]  # fmt: skip
    return np.array(rows)


def head_light(s: Sitter, region: Region) -> tuple[Array, Array]:
    """Diffuse light and highlights on the face, float32 [h, w] each, from the normals of ellipsoid and
    relief.

    Wrapped Lambert shading and Blinn's highlights, worked out on a coarse grid and enlarged: both are smooth.
    """
    from PIL import Image

    step = max(round(s.unit / 32), 1)
    height, width = region.alpha.shape
    ys = np.arange(region.top, region.top + height + step, step, dtype=np.float32)
    xs = np.arange(region.left, region.left + width + step, step, dtype=np.float32)
    centre = s.view.project(np.array([[0, 0.15, 0.0]]))[0]
    u = (xs - centre[0]) / (1.2 * s.who.width * s.unit)
    v = (ys - centre[1]) / (1.95 * s.unit)
    rest = 1 - u[None] ** 2 - v[:, None] ** 2
    depth = np.sqrt(np.maximum(rest, 0.06))
    slope_x, slope_y = -u[None] / depth, -0.75 * v[:, None] / depth
    bumps = _bumps(s)
    places = s.view.on_face(bumps[:, :2], 0.1)
    sx, sy = (bumps[:, 2:4] * s.unit).T
    dx, dy = xs[None] - places[:, :1], ys[None] - places[:, 1:]
    across = np.exp(-0.5 * (dx / sx[:, None]) ** 2)
    down = np.exp(-0.5 * (dy / sy[:, None]) ** 2) * (bumps[:, 4:] * s.unit)
    slope_x = slope_x + down.T @ (-dx / sx[:, None] ** 2 * across)
    slope_y = slope_y + (-dy / sy[:, None] ** 2 * down).T @ across
    hollow = np.minimum(down, 0).T @ across / s.unit
    norm = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    lx = np.sin(s.look.light_azimuth) * np.cos(s.look.light_height)
    ly, lz = -np.sin(s.look.light_height), np.cos(s.look.light_azimuth) * np.cos(s.look.light_height)
    facing = (-slope_x * lx - slope_y * ly + lz) * norm
    wrap = 0.2
    light = (
        np.maximum((facing + wrap) / (1 + wrap), 0) * (1.05 + 2.2 * hollow) * (0.62 + 0.38 * np.minimum(1.7 * depth, 1))
        + 0.04
    )
    hx, hy, hz = np.array([lx, ly, lz + 1]) / np.sqrt(lx**2 + ly**2 + (lz + 1) ** 2)
    mirror = np.maximum((-slope_x * hx - slope_y * hy + hz) * norm, 0)
    gloss = 0.16 * mirror**28 + 0.03 * mirror**6

    def enlarge(values: Array) -> Array:
        grid = Image.fromarray(values.astype(np.float32))
        full = grid.resize((grid.width * step, grid.height * step), Image.Resampling.BILINEAR)
        return np.asarray(full)[:height, :width]

    return enlarge(light), enlarge(gloss)
