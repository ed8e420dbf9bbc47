"""Clothes, glasses, hats and jewellery."""

import colorsys

import numpy as np

from rayface.data.drawing.canvas import Region, colour, cut_texture, varied
from rayface.data.drawing.geometry import mirrored, smooth, surface_depth
from rayface.data.drawing.head import Sitter
from rayface.records import PARSING_ID

Array = np.ndarray
CLEAR_KEEPS = [PARSING_ID[name] for name in ("l_eye", "r_eye", "l_brow", "r_brow")]


def _any_colour(rng: np.random.Generator, dark: float = 0.0) -> Array:
    hue, saturation, value = rng.random(), rng.beta(1.2, 2.0), rng.uniform(0.1, 0.95 - dark)
    return colour(*(255 * c for c in colorsys.hsv_to_rgb(hue, saturation, value)))


def _cloth(s: Sitter, points: Array, base: Array, light: float = 0.75) -> Region:
    """Fill an outline (head coordinates [n, 3]) with woven or striped cloth and a few folds."""
    region = s.canvas.polygon(s.view.project(points))
    height, width = region.alpha.shape
    tone = varied(base, np.maximum(1 + 0.06 * cut_texture("grain", s.rng, height, width, 1.5), 0))
    if s.rng.random() < 0.3:
        period, phase = s.rng.uniform(0.1, 0.4) * s.unit, s.rng.uniform(0, 6)
        y, x = np.ogrid[:height, :width]
        stripes = (np.sin((y if s.rng.random() < 0.5 else x) * 6.28 / period + phase) > 0.2).astype(np.float32)
        tone += 0.5 * stripes * (_any_colour(s.rng)[:, None, None] - tone)
    folds = light + 0.1 * cut_texture("cloud", s.rng, height, width, s.unit / 90)
    s.canvas.paint(region, tone, label=PARSING_ID["cloth"], light=folds, gloss=0.0)
    return region


def draw_clothes(s: Sitter) -> None:
    """What is worn on the shoulders, down to well below a crop."""
    kind = s.look.clothes
    dip = {"crew": 1.98, "vee": 2.6, "shirt": 2.2, "tie": 2.2, "bare": 3.0}[kind]
    side, start = 0.84, 1.66
    half = np.array([
        (0, dip, 0.2), (0.4, dip - (0.12 if kind == "crew" else 0.35), 0.15), (side - 0.1, start + 0.08, 0),
        (side, start, -0.1), (1.5, 1.88, -0.15), (2.1, 2.05, -0.15), (2.6, 2.5, -0.1),
        (2.75, 4.5, 0), (2.8, 14, 0), (0, 14, 0),
    ])  # fmt: skip
    if kind == "bare":  # a neckline off the shoulders
        half = np.array(
            [
                (0, 3.0, 0.2),
                (0.9, 2.75, 0.1),
                (1.6, 2.45, 0),
                (2.2, 2.3, -0.1),
                (2.7, 2.7, -0.1),
                (2.75, 4.5, 0),
                (2.8, 14, 0),
                (0, 14, 0),
            ]
        )
    base = _any_colour(s.rng)
    points = smooth(mirrored(half), 3)
    if kind in {"shirt", "tie"}:
        shirt = colour(226, 226, 230) if s.rng.random() < 0.6 else _any_colour(s.rng)
        _cloth(s, points, shirt, 0.8)
        for m in (-1, 1):  # the collar's wings
            wing = [(0.74, 1.5, 0.05), (0.86, 1.62, -0.05), (0.62, 2.18, 0.25), (0.08, 1.98, 0.3)]
            collar = s.canvas.polygon(s.view.project(np.array(wing) * (m, 1, 1)))
            s.canvas.shade(
                s.canvas.polygon(s.view.project(np.array(wing) * (m, 1, 1)) + s.pixels(0, 0.05), 0.03 * s.unit), 0.3
            )
            s.canvas.paint(collar, shirt, label=PARSING_ID["cloth"], light=0.84)
        if kind == "tie":
            knot = [(0, 1.93, 0.3), (0.17, 1.95, 0.3), (0.1, 2.2, 0.3), (0.3, 4.5, 0.3), (0, 4.6, 0.3)]
            _cloth(s, mirrored(np.array(knot)), _any_colour(s.rng, 0.25), 0.72)
        if s.rng.random() < 0.7:
            for m in (-1, 1):
                lapel = np.array(
                    [(1.0, 1.68, -0.1), (2.1, 2.03, -0.1), (3, 2.6, 0), (3, 14, 0), (0.2, 14, 0.3), (0.7, 2.4, 0.3)]
                )
                _cloth(s, lapel * (m, 1, 1), base * 0.4, 0.65)
        return
    region = _cloth(s, points, base)
    hem = smooth(half[:4], 5, closed=False)
    for m in (-1, 1):
        s.canvas.shade(
            s.canvas.line(s.view.project(hem * (m, 1, 1)) + s.pixels(0, 0.05), 0.05 * s.unit).within(region), 0.2
        )


def draw_necklace(s: Sitter) -> None:
    """A chain or beads on the lower neck; class neck_l."""
    if not s.look.necklace:
        return
    low = s.rng.uniform(1.98, 2.3)
    half = np.array([(-0.82, 1.62, -0.1), (-0.5, 1.62 + 0.65 * (low - 1.62), 0.15), (0, low, 0.3)])
    chain = smooth(np.concatenate([half, half[:2][::-1] * (-1, 1, 1)]), 10, closed=False)
    metal = colour(214, 178, 92) if s.rng.random() < 0.6 else colour(215, 215, 220)
    line = s.canvas.line(s.view.project(chain), s.rng.uniform(0.03, 0.08) * s.unit)
    height, width = line.alpha.shape
    beads = 0.75 + 0.35 * np.sign(cut_texture("grain", s.rng, height, width, zoom=2.0))
    s.canvas.paint(line, metal, label=PARSING_ID["neck_l"], light=beads, gloss=0.05)


def draw_earrings(s: Sitter) -> None:
    """Studs, hoops or drops below the ears that can be seen."""
    if not s.look.earrings:
        return
    metal = colour(222, 186, 96) if s.rng.random() < 0.6 else _any_colour(s.rng)
    kind, size = s.rng.integers(3), s.rng.uniform(0.06, 0.13)
    angle = np.linspace(0, 2 * np.pi, 14)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) * s.unit
    for m, ear in ((-1, "r_ear"), (1, "l_ear")):
        if np.count_nonzero(s.canvas.labels == PARSING_ID[ear]) < 0.03 * s.unit**2:
            continue  # the ear is turned away
        lobe = np.array([[m * (1.05 * s.who.width + 0.06), 0.45 * s.who.ears + 0.1, -0.1]])
        centre = s.view.project(lobe)[0]
        if kind == 0:
            part = s.canvas.polygon(centre + ring * size)
        elif kind == 1:
            part = s.canvas.line(centre + s.pixels(0, 0.16) + ring * 0.16 * (0.7, 1), 0.045 * s.unit)
        else:
            drop = np.array(
                [(0, -0.05), (size * 0.8, 0.25), (size * 0.5, 0.4), (-size * 0.5, 0.4), (-size * 0.8, 0.25)]
            )
            part = s.canvas.polygon(centre + drop * s.unit)
        s.canvas.paint(part, metal, label=PARSING_ID["ear_r"], light=0.85, gloss=0.12)


def draw_glasses(s: Sitter) -> None:
    """Frame and lenses, all eye_g; behind clear lenses eyes and brows keep their class, as in CelebAMask-HQ."""
    if s.look.glasses == "none":
        return
    sun, u, rng = s.look.glasses == "sun", s.unit, s.rng
    power, wide, high = [(2.0, 0.35, 0.33), (5.0, 0.41, 0.26), (2.6, 0.4, 0.27), (3.2, 0.42, 0.33)][
        s.look.glasses_shape
    ]
    scale = rng.uniform(0.92, 1.08) * (1.1 if sun else 1.0)
    frame_width = rng.uniform(0.03, 0.075) * u
    frame = colour(24, 22, 24) if rng.random() < 0.6 else _any_colour(rng, 0.2) * 0.5
    tint = _any_colour(rng, 0.3) * 0.1 + 0.003
    angle = np.linspace(0, 2 * np.pi, 30)
    ring = np.column_stack([np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power) * wide * scale,
                            np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power) * high * scale])  # fmt: skip
    place = lambda flat, z=0.22: s.view.project(np.column_stack([flat, np.full(len(flat), 1.0 + z)]))  # noqa: E731
    for m in (-1, 1):
        rim = place(ring * (m, 1) + (m * 0.5, 0.05), 0.08)
        shadow = s.canvas.line(rim + s.pixels(0, 0.06), frame_width * 1.4, 0.03 * u)
        s.canvas.shade(shadow.within(s.face), 0.3)
        lens = s.canvas.polygon(rim)
        kept = np.isin(s.canvas.labels[lens.window], CLEAR_KEEPS)
        visible = lens.alpha > 0.5 if sun else (lens.alpha > 0.5) & ~kept
        s.canvas.paint(lens, tint if sun else colour(235, 240, 245), opacity=0.93 if sun else 0.06)
        if sun:
            s.canvas.gloss[lens.window] *= 1 - 0.8 * lens.alpha
        glare = s.canvas.line(np.stack([rim[8], rim[17]]), 0.09 * u, 0.02 * u).within(lens)
        s.canvas.gloss[glare.window] += glare.alpha * rng.uniform(0.0, 0.12)
        s.canvas.labels[lens.window][visible] = PARSING_ID["eye_g"]
        s.canvas.paint(s.canvas.line(rim, frame_width), frame, label=PARSING_ID["eye_g"], light=0.7, gloss=0.03)
        hinge = np.array(
            [
                (m * (0.5 + wide * scale), -0.02, 1.06),
                (m * 1.06 * s.who.width, -0.06, 0.55),
                (m * 1.08 * s.who.width, -0.02, 0.0),
            ]
        )
        far = m * s.view.rotation[0, 2] > 0.12  # that arm is behind the face
        arm = s.canvas.line(s.view.project(hinge[:2] if far else hinge), frame_width)
        s.canvas.paint(arm, frame, label=PARSING_ID["eye_g"], light=0.6)
    inner = 0.5 - wide * scale
    bridge = smooth(np.array([(-inner, 0.0), (0, -0.06), (inner, 0.0)]), 5, closed=False)
    s.canvas.paint(s.canvas.line(place(bridge, 0.16), frame_width), frame, label=PARSING_ID["eye_g"], light=0.8)


def draw_hat(s: Sitter) -> None:
    """A cap with a visor, a knitted beanie or a hat with a brim."""
    if s.look.hat == "none":
        return
    kind, rng, w = s.look.hat, s.rng, s.who.width
    base = _any_colour(rng)
    edge_y = -0.74 if kind == "beanie" else -0.82
    low = np.array([(1.1 * w, -0.45), (0.8 * w, edge_y + 0.06), (0.4, edge_y), (0, edge_y - 0.02)])
    rim = np.concatenate([low, low[-2::-1] * (-1, 1)])
    rim3 = np.column_stack([rim, surface_depth(rim) * np.clip(1.25 - np.abs(rim[:, 0]), 0, 1) + 0.05])
    puff = 0.3 if kind == "beanie" else 0.2
    dome = np.array(
        [
            (-1.22 * w, -0.7),
            (-1.14 * w, -1.2),
            (-0.72, -1.55 - puff),
            (0, -1.72 - puff),
            (0.72, -1.55 - puff),
            (1.14 * w, -1.2),
            (1.22 * w, -0.7),
        ]
    )
    points = np.concatenate([s.view.project(np.column_stack([smooth(dome, 5, closed=False), np.zeros(31)])),
                             s.view.project(smooth(rim3, 4, closed=False))])  # fmt: skip
    s.canvas.shade(s.canvas.polygon(points + s.pixels(0, 0.14), 0.08 * s.unit).within(s.face), 0.45)
    _fabric(s, s.canvas.polygon(points), base, knit=kind == "beanie")
    if kind == "cap":
        visor = np.array(
            [
                (-0.86 * w, -0.72, 0.75),
                (-0.8, -0.66, 1.6),
                (0, -0.6, 2.1),
                (0.8, -0.66, 1.6),
                (0.86 * w, -0.72, 0.75),
                (0, -0.92, 1.2),
            ]
        )
        piece = s.canvas.polygon(s.view.project(smooth(visor, 4)))
        s.canvas.shade(
            s.canvas.polygon(s.view.project(smooth(visor, 4)) + s.pixels(0, 0.12), 0.08 * s.unit).within(s.face), 0.4
        )
        _fabric(s, piece, base * rng.uniform(0.4, 1.0), knit=False)
    elif kind == "brim":
        angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        reach = rng.uniform(1.75, 2.1)
        brim = np.column_stack(
            [np.cos(angle) * reach, -0.78 + 0.14 * np.sin(angle) - 0.1 * np.cos(angle) ** 2, np.sin(angle) * 1.6]
        )
        shadow = s.canvas.polygon(s.view.project(brim) + s.pixels(0, 0.22), 0.1 * s.unit)
        s.canvas.shade(shadow.within(s.face), 0.35)
        _fabric(s, s.canvas.polygon(s.view.project(brim)), base, knit=False)
        band = np.concatenate([points[31:], points[31:][::-1] - s.pixels(0, 0.25)])
        s.canvas.paint(s.canvas.polygon(band), _any_colour(rng) * 0.4, label=PARSING_ID["hat"], light=0.7)


def _fabric(s: Sitter, region: Region, base: Array, knit: bool) -> None:
    height, width = region.alpha.shape
    y, x = np.ogrid[region.top : region.top + height, region.left : region.left + width]
    centre = s.view.project(np.array([[0, -1.0, 0.0]]))[0]
    dx = np.clip((x - centre[0]) / s.unit, -1.5, 1.5).astype(np.float32)
    dy = ((y - centre[1]) / s.unit).astype(np.float32)
    light = np.clip(0.8 + 0.3 * float(np.sin(s.look.light_azimuth)) * dx - 0.16 * dx**2 - 0.15 * dy, 0.2, 1.2)
    if knit:
        light = light * (0.9 + 0.14 * np.sin(x * 6.28 / (0.09 * s.unit)) * np.sin(y * 6.28 / (0.11 * s.unit)))
    tone = varied(base, np.maximum(1 + 0.05 * cut_texture("grain", s.rng, height, width, 1.3), 0))
    s.canvas.paint(region, tone, label=PARSING_ID["hat"], light=light.astype(np.float32), gloss=0.0)
