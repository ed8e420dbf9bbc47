"""Eyes, brows, nose, mouth and the lines of age."""

import numpy as np

from rayface.data.drawing.canvas import Region, colour
from rayface.data.drawing.geometry import smooth
from rayface.data.drawing.head import Sitter, chin, mouth_corners
from rayface.data.drawing.person import HAIR_COLOURS
from rayface.records import PARSING_ID

Array = np.ndarray


def draw_features(s: Sitter) -> None:
    """Everything on the face that is not hair."""
    _age_lines(s)
    _nose(s)
    for side in (-1, 1):
        _eye(s, side)
        _brow(s, side)
    _mouth(s)


Curve = list[tuple[float, float]]


def _creases(s: Sitter, curves: list[Curve], width: float, amount: float) -> None:
    """Less light along curves on the face (eye distances)."""
    placed = [s.view.on_face(smooth(np.array(points), 5, closed=False), 0.02) for points in curves]
    crease = s.canvas.line(placed, max(width * s.unit, 0.5), width * s.unit)
    s.canvas.shade(crease.within(s.face), amount)


def _both_sides(curve: Curve) -> list[Curve]:
    return [curve, [(-x, y) for x, y in curve]]


def _age_lines(s: Sitter) -> None:
    who, smile = s.who, max(s.look.smile, 0.0)
    fold = 0.08 + 0.35 * who.age + 0.35 * smile
    x = 0.27 * who.nose_width
    _creases(s, _both_sides([(x, 0.62), (0.42, 0.8), (0.5 + 0.05 * smile, 1.0)]), 0.045, fold)
    if who.bags:
        _creases(s, _both_sides([(0.28, 0.14), (0.45, 0.23), (0.68, 0.17)]), 0.05, 0.5)
    if who.age > 0.45:
        feet = [curve for end in (-0.08, 0.0, 0.1) for curve in _both_sides([(0.8, 0.0), (0.94, end)])]
        _creases(s, feet, 0.02, 0.35 * who.age)
    if who.fullness > 0.7:
        y = chin(who, s.look)
        curve = smooth(np.array([(-0.5, y - 0.05, 0.3), (0, y + 0.17, 0.5), (0.5, y - 0.05, 0.3)]), 6, closed=False)
        below = s.canvas.line(s.view.project(curve), 0.04 * s.unit, 0.03 * s.unit)
        s.canvas.shade(below, 0.45)
    if who.age > 0.5 or s.look.brow_raise > 0.05:
        forehead: list[Curve] = [[(-0.5, y + 0.03), (0, y - 0.02), (0.5, y + 0.03)] for y in (-0.62, -0.76, -0.9)]
        _creases(s, forehead, 0.025, 0.1 + 0.3 * who.age)


def _nose(s: Sitter) -> None:
    who, x, n = s.who, s.shift(2), s.who.nose_length
    w = 0.27 * who.nose_width * (1 + 0.08 * max(s.look.smile, 0))
    right = [(0.11, -0.02), (0.12, 0.2), (0.16, 0.42), (w * 0.92, 0.56), (w, 0.66), (w * 0.85, 0.74), (0.1, 0.755)]
    half = np.array([(px + x, py * n) for px, py in right])
    left = half[::-1] * (-1, 1) + (2 * x, 0)
    lift = np.array([0.02, 0.06, 0.1, 0.08, 0.06, 0.06, 0.14])
    depth = np.concatenate([lift, lift[::-1]])
    flat = np.concatenate([half, left])
    points = np.stack([s.view.at(px, py, z) for (px, py), z in zip(flat, depth, strict=True)])
    region = s.canvas.polygon(smooth(points, 4)).within(s.face)
    s.canvas.mark(region, PARSING_ID["nose"])
    # The shadow that the nose throws, away from the light.
    throw = -np.sin(s.look.light_azimuth)
    shadow = s.canvas.blob(s.view.at(x + 0.24 * throw, 0.74 * n, 0.05), 0.15 * s.unit, 0.09 * s.unit)
    s.canvas.shade(shadow.within(s.face), 0.16 + 0.35 * s.look.light_height * abs(np.cos(s.look.light_azimuth)))
    under = s.canvas.blob(s.view.at(x, 0.735 * n, 0.12), 0.17 * who.nose_width * s.unit, 0.035 * s.unit)
    s.canvas.shade(under.within(s.face), 0.5)
    wing = smooth(np.array([(w, 0.56 * n), (w * 1.04, 0.66 * n), (w * 0.9, 0.74 * n)]), 4, closed=False)
    wings = [s.view.on_face(wing * (m, 1) + np.array([x, 0]), 0.06) for m in (-1, 1)]
    s.canvas.shade(s.canvas.line(wings, 0.025 * s.unit, 0.02 * s.unit).within(s.face), 0.45)
    for m in (-1, 1):
        hole = s.canvas.blob(s.view.at(x + m * 0.115 * who.nose_width, 0.715 * n, 0.16), 0.055 * s.unit, 0.025 * s.unit)
        s.canvas.paint(hole, s.skin * np.array([0.12, 0.06, 0.05], np.float32), opacity=0.85)


def _eye(s: Sitter, side: int) -> None:
    who, look, u = s.who, s.look, s.unit
    half = 0.245 * who.eye_size
    opening = who.eye_open * look.eyes
    squeeze = 1 - 0.3 * max(look.smile, 0)
    up, low = 0.11 * opening, 0.066 * opening * squeeze
    y0 = s.shift(0 if side < 0 else 1)
    t = np.linspace(-1, 1, 13)  # from the inner to the outer corner
    base = 0.03 - t * (0.012 + 0.022 * who.eye_tilt)
    upper = base - up * (1 - np.abs(t) ** 2.4) * (1 - 0.12 * t)
    lower = base + low * (1 - np.abs(t) ** 2.2) * (1 + 0.2 * t)
    x = side * (0.5 + half * t)
    place = lambda xs, ys, lift=-0.08: s.view.on_face(np.column_stack([xs, ys + y0]), lift)  # noqa: E731
    upper_px, lower_px = place(x, upper), place(x, lower)
    eye = s.canvas.polygon(np.concatenate([upper_px, lower_px[::-1][1:-1]]))

    if look.makeup:
        shade = np.array([0.55, 0.42, 0.5], np.float32)
        lid = s.canvas.blob(s.view.at(side * 0.5, -0.1 + y0), 0.2 * u, 0.075 * u)
        s.canvas.tint(lid.within(s.face), shade, 0.75)
    crease = place(x, upper - 0.055 * (1 - 0.6 * np.abs(t)))
    s.canvas.shade(s.canvas.line(crease, 0.02 * u, 0.014 * u), 0.45)
    lower_crease = place(x[2:-1], lower[2:-1] + 0.05)
    s.canvas.shade(s.canvas.line(lower_crease, 0.025 * u, 0.025 * u), 0.16 + 0.2 * max(look.smile, 0))

    white = colour(222, 212, 206)
    s.canvas.paint(eye, white, label=PARSING_ID["l_eye" if side > 0 else "r_eye"], gloss=0.0)
    light = s.canvas.light[eye.window]
    light += eye.alpha * (0.38 - 0.5 * light)  # the eye lies deep: half of the light, and some from everywhere
    for corner in (-1, 1):
        rim = s.canvas.blob(s.view.at(side * (0.5 + corner * half * 0.95), 0.02 + y0, -0.08), 0.045 * u, 0.045 * u)
        s.canvas.tint(rim.within(eye), np.array([0.75, 0.5, 0.48], np.float32), 0.8)
    _iris(s, eye, s.view.at(side * 0.5 + 0.07 * look.gaze[0], -0.025 + y0 + 0.03 * look.gaze[1], -0.08))
    lid_shadow = s.canvas.line(upper_px + s.pixels(0, 0.025), 0.05 * u, 0.02 * u)
    s.canvas.shade(lid_shadow.within(eye), 0.65)

    lash = colour(26, 18, 16)
    thick = 0.026 + (0.018 if look.makeup else 0) + (0.008 if not who.male else 0)
    wing = np.concatenate([upper_px[1:], place(x[-1:] + side * 0.04, upper[-1:] - 0.015)]) if look.makeup else upper_px
    s.canvas.paint(s.canvas.line(wing, thick * u), lash, opacity=0.88)
    s.canvas.paint(s.canvas.line(lower_px[3:], 0.013 * u), lash, opacity=0.75 if look.makeup else 0.35)


def _iris(s: Sitter, eye: Region, centre: Array) -> None:
    u = s.unit
    angle = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    base = colour(*s.who.eye_colour)
    iris = s.canvas.polygon(centre + ring * 0.118 * u).within(eye)
    s.canvas.paint(iris, base * 0.45)
    s.canvas.paint(s.canvas.polygon(centre + ring * 0.095 * u).within(eye), base)
    s.canvas.paint(s.canvas.blob(centre + s.pixels(0, 0.035), 0.04 * u, 0.03 * u).within(iris), base * 1.8, opacity=0.8)
    s.canvas.paint(s.canvas.polygon(centre + ring * 0.044 * u).within(eye), colour(10, 8, 8))
    glint = centre + np.array([0.035 * np.sign(np.sin(s.look.light_azimuth)), -0.035]) * u
    spot = s.canvas.polygon(glint + ring * 0.02 * u).within(eye)
    s.canvas.gloss[spot.window] += 0.8 * spot.alpha


def _brow(s: Sitter, side: int) -> None:
    who, look, u = s.who, s.look, s.unit
    y0 = -0.3 * who.brow_height - look.brow_raise + s.shift(5 if side > 0 else 0)
    arch = 0.03 + 0.1 * who.brow_arch
    spine = smooth(
        np.array([(0.2, y0 + 0.01), (0.42, y0 - 0.4 * arch), (0.64, y0 - arch), (0.86, y0 - 0.15 * arch)]), 5, False
    )
    thickness = (0.028 + 0.052 * who.brow_weight) * np.interp(spine[:, 0], [0.2, 0.3, 0.6, 0.87], [0.75, 1, 0.85, 0.15])
    edge = np.concatenate([spine - np.column_stack([0 * thickness, thickness]),
                           (spine + np.column_stack([0 * thickness, thickness]))[::-1]])  # fmt: skip
    points = s.view.on_face(edge * (side, 1), 0.03)
    region = s.canvas.polygon(points, soft=0.028 * u).within(s.face)
    dark = colour(*HAIR_COLOURS[who.hair_colour]) * (
        0.35 if who.hair_colour in {"Blond_Hair", "Gray_Hair", "Red"} else 0.7
    )
    density = 0.5 + 0.35 * who.brow_weight
    s.canvas.paint(region, dark, opacity=density, label=PARSING_ID["l_brow" if side > 0 else "r_brow"], gloss=0.0)
    count = 14
    at = np.linspace(0, len(spine) - 1, count).astype(int)
    lean = np.interp(np.linspace(0, 1, count), [0, 0.3, 1], [0.3, 1.0, 1.4])
    reach = np.column_stack([0.07 * lean, -0.8 * thickness[at] + 0.05 * (lean - 0.8)])
    roots = spine[at] + np.column_stack([0 * at, 0.5 * thickness[at]])
    tips = s.view.on_face((roots + reach) * (side, 1), 0.03)
    strokes = np.stack([s.view.on_face(roots * (side, 1), 0.03), tips], 1)
    s.canvas.paint(s.canvas.line(list(strokes), 0.014 * u).within(region), dark * 0.5, opacity=0.6)


def _mouth(s: Sitter) -> None:
    who, look, u = s.who, s.look, s.unit
    (lx, ly), (rx, ry) = mouth_corners(who, look)
    smile, gap = max(look.smile, 0.0), (0.06 + 0.2 * look.mouth_open) * (look.mouth_open > 0)
    t = np.linspace(-1, 1, 13)
    x = (lx + rx) / 2 + (rx - lx) / 2 * t
    corner = (ly + ry) / 2 + (ry - ly) / 2 * t
    sag = (0.015 + 0.075 * look.smile) * (1 - t**2)
    arc = 1 - np.abs(t) ** 2.2
    middle = corner + sag
    bow = np.interp(np.abs(t), [0, 0.2, 0.55, 1], [0.8, 1, 0.62, 0])
    inner_top, inner_low = middle - 0.25 * gap * arc, middle + 0.75 * gap * arc
    top = inner_top - 0.125 * who.lips * bow * (1 - 0.3 * smile)
    bottom = inner_low + 0.165 * who.lips * arc * (1 - 0.2 * smile)
    place = lambda ys: s.view.on_face(np.column_stack([x, ys]), 0.04)  # noqa: E731
    top_px, inner_top_px, inner_low_px, bottom_px = place(top), place(inner_top), place(inner_low), place(bottom)

    lip = s.skin * np.array([0.82, 0.5, 0.5], np.float32)
    if look.lipstick:
        shades = np.array([[168, 28, 44], [190, 62, 84], [140, 44, 50], [205, 88, 92]], np.float32)
        lip = colour(*shades[s.rng.integers(4)])
    if gap:
        inside = s.canvas.polygon(np.concatenate([inner_top_px, inner_low_px[::-1]]))
        s.canvas.paint(inside, colour(58, 18, 18), label=PARSING_ID["mouth"], light=0.6, gloss=0.0)
        _teeth(s, inside, x, inner_top, gap)
    upper = s.canvas.polygon(np.concatenate([top_px, inner_top_px[::-1]]), soft=0.006 * u)
    lower = s.canvas.polygon(np.concatenate([inner_low_px, bottom_px[::-1]]), soft=0.006 * u)
    s.canvas.paint(upper, lip * 0.8, opacity=0.92, label=PARSING_ID["u_lip"])
    s.canvas.paint(lower, lip, opacity=0.92, label=PARSING_ID["l_lip"])
    s.canvas.shade(upper, 0.18)
    shine = s.canvas.blob((inner_low_px[6] + bottom_px[6]) / 2, 0.16 * u, 0.022 * u).within(lower)
    s.canvas.gloss[shine.window] += shine.alpha * (0.12 if look.lipstick else 0.05)
    line = lip * np.array([0.18, 0.12, 0.12], np.float32)
    s.canvas.paint(s.canvas.line(inner_top_px, 0.02 * u, 0.006 * u), line, opacity=0.85)
    if gap:
        s.canvas.paint(s.canvas.line(inner_low_px, 0.014 * u, 0.006 * u), line, opacity=0.4)
    for end in (top_px[0], top_px[-1]):
        s.canvas.shade(s.canvas.blob(end, 0.05 * u, 0.045 * u).within(s.face), 0.35)
    below = place(bottom + 0.045)[3:-3]
    s.canvas.shade(s.canvas.line(below, 0.04 * u, 0.035 * u), 0.22)


def _teeth(s: Sitter, inside: Region, x: Array, inner_top: Array, gap: float) -> None:
    """The upper row, and a hint of single teeth."""
    height = min(0.13, gap * 0.9)
    keep = slice(1, -1)
    edge = np.column_stack([x[keep] * 0.92, inner_top[keep] + height * (1 - 0.25 * np.linspace(-1, 1, 11) ** 2)])
    points = np.concatenate([np.column_stack([x[keep] * 0.95, inner_top[keep] - 0.03]), edge[::-1]])
    row = s.canvas.polygon(s.view.on_face(points, 0.02)).within(inside)
    s.canvas.paint(row, colour(232, 224, 210), light=0.85, opacity=0.96)
    y0, y1 = inner_top.mean() - 0.05, inner_top.mean() + height + 0.05
    splits = [s.view.on_face(np.array([(at, y0), (at, y1)]), 0.02) for at in (-0.26, -0.15, -0.05, 0.05, 0.15, 0.26)]
    s.canvas.shade(s.canvas.line(splits, 0.012 * s.unit).within(row), 0.25)
    for m in (-1, 1):
        dark = s.canvas.blob(s.view.at(m * 0.36, float(inner_top.mean())), 0.1 * s.unit, 0.2 * s.unit)
        s.canvas.shade(dark.within(inside), 0.55)
