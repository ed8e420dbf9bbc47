"""Hair and facial hair: shapes from outlines, strands from a streaked texture that follows the growth."""

import numpy as np

from rayface.data.drawing.canvas import TEXTURE_SIDE, Region, colour, cut_texture, texture, varied
from rayface.data.drawing.geometry import mirrored, smooth, surface_depth
from rayface.data.drawing.head import Sitter, chin
from rayface.data.drawing.person import HAIR_COLOURS, has_bangs
from rayface.records import PARSING_ID

Array = np.ndarray
HAIR = PARSING_ID["hair"]

VOLUME = {
    "receding": 0.05,
    "buzz": 0.02,
    "short": 0.18,
    "parted": 0.2,
    "bob": 0.22,
    "long": 0.25,
    "tied": 0.07,
    "afro": 0.5,
}


def hair_colour(s: Sitter) -> Array:
    """The middle tone, as the canvas keeps colours."""
    return colour(*HAIR_COLOURS[s.who.hair_colour]) * s.who.hair_lightness


def _strands(s: Sitter, region: Region, around_crown: bool) -> Array:
    """Streaks that follow the hair, float32 [h, w], mean 0."""
    height, width = region.alpha.shape
    wave, u = s.who.hair_wave, s.unit
    if wave == 1.0:
        return 0.8 * cut_texture("skin", s.rng, height, width, zoom=u / 18) + 0.3 * cut_texture(
            "grain", s.rng, height, width
        )
    y, x = np.ogrid[region.top : region.top + height, region.left : region.left + width]
    offset = s.rng.integers(0, TEXTURE_SIDE, 2)
    crown = s.view.project(np.array([[0.15 * s.who.displacement[5], -1.5, 0.35]]))[0]
    dx, dy = ((x - crown[0]) / u).astype(np.float32), ((y - crown[1]) / u).astype(np.float32)
    if around_crown:
        along, across = np.hypot(dx, dy), np.arctan2(dx, dy + 0.35) * 1.1
    else:
        along, across = dy + 0 * dx, dx / (1 + 0.12 * dy)
    if wave:
        across = across + 0.07 * np.sin(5.5 * along + 3 * dx) + 0.03 * np.sin(11 * along)
    rows = (along * 40 + offset[0]).astype(np.intp) % TEXTURE_SIDE
    columns = (across * 110 + offset[1]).astype(np.intp) % TEXTURE_SIDE
    return texture("strand")[rows, columns]


def _ragged(s: Sitter, region: Region, strands: Array, rough: float) -> Region:
    """The shape with its edges broken up by strands; `region` must have been drawn softly."""
    gain = 1.0 / max(rough, 0.08)
    alpha = np.clip((region.alpha - 0.5 + 0.22 * rough * np.clip(strands, -1.8, 1.8)) * gain * 2.2 + 0.5, 0, 1)
    return Region(region.top, region.left, alpha.astype(np.float32))


def _paint_hair(s: Sitter, points: Array, *, around_crown: bool, depth: float = 1.0, shadow: float = 0.0) -> Region:
    """Fill an outline (pixels) with hair; `depth` below 1 is hair in the shade, `shadow` falls on what is below."""
    u = s.unit
    rough = {"buzz": 0.25, "receding": 0.4}.get(s.look.hair_style, 0.5 + 0.4 * s.who.hair_wave)
    if shadow:
        cast = s.canvas.polygon(points + s.pixels(-0.05 * np.sin(s.look.light_azimuth), 0.07), soft=0.07 * u)
        s.canvas.shade(cast.within(s.face), shadow)
    soft = s.canvas.polygon(points, soft=(0.03 + 0.05 * rough) * u)
    strands = _strands(s, soft, around_crown)
    region = _ragged(s, soft, strands, rough)
    height, width = region.alpha.shape
    contrast = 0.1 if s.who.hair_colour in {"Gray_Hair", "Blond_Hair"} else 0.17
    tone = varied(hair_colour(s), np.maximum(1 + contrast * strands, 0.25))
    y, x = np.ogrid[region.top : region.top + height, region.left : region.left + width]
    centre = s.view.project(np.array([[0, -0.4, 0.0]]))[0]
    dx, dy = ((x - centre[0]) / u).astype(np.float32), ((y - centre[1]) / u).astype(np.float32)
    side = np.float32(np.sin(s.look.light_azimuth)) * np.clip(dx, -1.4, 1.4)
    light = depth * np.clip(0.72 + 0.3 * side - 0.12 * np.clip(dy, -1, 2), 0.15, 1.3)
    band = np.exp(-(((dy + 0.8 - 0.22 * dx**2 + 0.05 * strands) / 0.2) ** 2)) * (1 - 0.7 * s.who.hair_wave)
    gloss = depth * band * np.clip(0.05 + 0.025 * strands, 0, 0.2) * (0.4 + 2 * float(hair_colour(s).mean()))
    s.canvas.paint(region, tone, label=HAIR, light=light.astype(np.float32), gloss=gloss.astype(np.float32))
    return region


def draw_back_hair(s: Sitter) -> None:
    """What hangs behind the neck; nothing for short styles."""
    style, v = s.look.hair_style, VOLUME.get(s.look.hair_style, 0) + 0.1 * s.who.hair_wave
    half: list[tuple[float, float, float]]
    if style == "afro":
        half = [
            (0, -2.0, 0),
            (0.9, -1.85, 0),
            (1.55, -1.2, 0),
            (1.68, -0.4, 0),
            (1.5, 0.4, 0),
            (1.0, 0.9, 0),
            (0, 0.9, 0),
        ]
    elif style in {"long", "bob"}:
        end = 1.35 + 0.25 * s.who.displacement[4] * 0.5 if style == "bob" else 3.4
        flare = 0.12 * s.who.hair_wave + (0.1 if style == "bob" else 0.25)
        half = [(0, -1.6 - v, -0.2), (0.75, -1.45 - v, -0.2), (1.12 + v, -0.9, -0.3), (1.18 + v, 0, -0.3),
                (1.2 + v + flare * 0.5, 0.9, -0.3), (1.15 + v + flare, end, -0.2), (0, end, -0.4)]  # fmt: skip
    elif style == "tied":
        half = [
            (0, -1.5, -0.3),
            (0.7, -1.4, -0.4),
            (1.02, -0.6, -0.5),
            (0.95, 0.5, -0.6),
            (0.6, 1.0, -0.6),
            (0, 1.0, -0.6),
        ]
        bun = s.view.project(np.array([[0.3 * s.who.displacement[4], -1.75, -0.5]]))[0]
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        _paint_hair(s, bun + np.column_stack([np.cos(angle) * 0.48, np.sin(angle) * 0.36]) * s.unit, around_crown=False)
    else:
        return
    outline = smooth(mirrored(np.array(half)), 4)
    _paint_hair(s, s.view.project(outline), around_crown=False, depth=0.72)


def _hairline(s: Sitter) -> Array:
    """The hair's edge on the face, from the picture's right to its left, head coordinates [n, 2]."""
    f, style, w = s.who.forehead, s.look.hair_style, s.who.width
    low = 0.28 if style in {"short", "parted", "buzz", "receding"} else 0.1
    peak = 0.05 * s.who.displacement[3]
    if style == "receding":
        right = [
            (0.99 * w, low),
            (0.95 * w, -0.2),
            (0.93 * w, -0.6),
            (0.72, -1.18 * f),
            (0.4, -1.26 * f),
            (0.2, -1.12 * f),
        ]
        middle = (0, -1.08 * f)
    else:
        right = [(0.99 * w, low), (0.93 * w, -0.12), (0.9 * w, -0.5), (0.8 * w, -0.8), (0.5, -1.0 * f)]
        middle = (0, -1.03 * f + peak)
    left = [(-x, y) for x, y in reversed(right)]
    line = np.array([*right, middle, *left])
    if has_bangs(s.look):
        sweep = 0.5 * np.sign(s.who.displacement[3])
        inside = np.abs(line[:, 0]) < 0.86 * w
        line[inside, 1] = (
            -0.5 + 0.1 * s.who.displacement[2] * 0.4 + 0.16 * sweep * line[inside, 0] - 0.08 * line[inside, 0] ** 2
        )
    elif style == "parted":
        line[4:8, 1] += 0.1 * np.sign(s.who.displacement[3]) * line[4:8, 0]
    return line


def draw_front_hair(s: Sitter) -> None:
    """Hair on top of the head, at the temples, and the locks beside the face."""
    style, w = s.look.hair_style, s.who.width
    if style == "bald":
        return
    v = VOLUME[style] + (0.08 * s.who.hair_wave if style not in {"buzz", "receding", "tied"} else 0)
    low = 0.28 if style in {"short", "parted", "buzz", "receding"} else 0.1
    lean = 0.12 * np.sign(s.who.displacement[3]) if style == "parted" else 0.0
    side = [
        (1.04 * w, low),
        (1.1 * w + 0.3 * v, -0.15),
        (1.14 * w + 0.7 * v, -0.65),
        (0.95 * w + 0.8 * v, -1.1 - 0.6 * v),
    ]
    top = [(0.55, -1.5 - v), (0, -1.64 - v)]
    outer = np.array([*[(-x, y) for x, y in (*side, top[0])], top[1], top[0], *side[::-1]])
    outer[:, 1] -= lean * outer[:, 0]
    outer3 = np.column_stack([smooth(outer, 4, closed=False), np.zeros((len(outer) - 1) * 4 + 1)])
    inner = smooth(_hairline(s), 4, closed=False)
    # Towards the ears the edge goes back with the side of the head, or it would leave a turned head.
    back = np.clip((np.abs(inner[:, 0]) / w - 0.55) / 0.4, 0, 1)
    depth = (surface_depth(inner) + 0.03) * (1 - back) + 0.1 * back
    points = np.concatenate([s.view.project(outer3), s.view.project(np.column_stack([inner, depth]))])
    _paint_hair(s, points, around_crown=True, shadow=0.15 if style in {"buzz", "receding"} else 0.4)
    if style in {"long", "bob"}:
        _locks(s, v)


def _locks(s: Sitter, v: float) -> None:
    """Curtains of hair that fall beside the face, over the ears."""
    end = 1.3 + 0.12 * s.who.displacement[4] if s.look.hair_style == "bob" else 3.4
    sides = [(-1,), (1,), (-1, 1), (-1, 1), (-1, 1)][s.rng.integers(5)]
    w, wave = s.who.width, 0.1 * s.who.hair_wave
    close = s.rng.uniform(-0.1, 0.06)
    for m in sides:
        shape = [
            (0.35, -1.25, 0.55), (0.9, -1.15, 0.3), (1.14 * w + v, -0.6, 0.0), (1.2 * w + v, 0.2, -0.1),
            (1.18 * w + v + wave, 0.9, 0), (1.2 * w + v - wave, 1.6, 0.1), (1.15 + v, end, 0.1), (0.72, end, 0.25),
            (0.82 + close + wave, 1.5, 0.3), (0.9 * w + close, 0.9, 0.3), (0.97 * w + close + wave, 0.3, 0.25),
            (0.92 * w + close, -0.35, 0.35), (0.74 + close, -0.85, 0.55),
        ]  # fmt: skip
        if end < 1.5:
            shape = [p for p in shape if p[1] < 1.4 or p[1] == end]
        curve = smooth(np.array(shape) * (m, 1, 1), 4)
        _paint_hair(s, s.view.project(curve), around_crown=False, shadow=0.3)


def _beard_shapes(s: Sitter) -> list[Array]:
    """Right halves of the outlines, head coordinates [n, 2], from the middle's top to the middle's bottom."""
    lip, bottom, style = 0.93 + 0.0 * s.who.lips, chin(s.who, s.look), s.look.beard
    lift = 0.06 * max(s.look.smile, 0)
    moustache = np.array(
        [
            (0, 0.8),
            (0.2, 0.78),
            (0.4, 0.88 - lift),
            (0.54, 1.1 - lift),
            (0.46, 1.12 - lift),
            (0.3, 1.0),
            (0, lip + 0.08),
        ]
    )
    patch = np.array(
        [(0, 1.25), (0.18, 1.22), (0.34, 1.3), (0.4, bottom - 0.25), (0.25, bottom + 0.1), (0, bottom + 0.1)]
    )
    beard = np.array([
        (0, 0.8), (0.2, 0.78), (0.45, 0.86 - lift), (0.62, 0.92 - lift), (0.8, 0.68), (0.93, 0.25), (0.95, -0.1),
        (1.2, -0.1), (1.25, 0.6), (1.1, 1.2), (0.8, bottom), (0.4, bottom + 0.15), (0, bottom + 0.15),
    ])  # fmt: skip
    if style in {"full", "stubble"}:
        return [beard]
    if style == "moustache":
        return [moustache]
    return [patch, moustache] if s.look.goatee_moustache else [patch]


def draw_facial_hair(s: Sitter) -> None:
    """Beard on the skin only (never over lips or nose); its exact cover goes into `canvas.facial_hair`."""
    if s.look.beard == "none":
        return
    u, stubble = s.unit, s.look.beard == "stubble"
    base = hair_colour(s) * (0.75 if s.who.hair_colour in {"Blond_Hair", "Gray_Hair"} else 0.55)
    for half in _beard_shapes(s):
        flat = mirrored(half)
        soft = s.canvas.polygon(s.view.on_face(smooth(flat, 4), 0.02), soft=0.09 * u).within(s.face)
        height, width = soft.alpha.shape
        noise = cut_texture("grain", s.rng, height, width, zoom=max(u / 70, 0.6))
        streaks = cut_texture("strand", s.rng, height, width, zoom=max(u / 60, 0.6))
        skin = s.canvas.labels[soft.window] == PARSING_ID["skin"]
        edge = np.clip((soft.alpha - 0.5 + 0.05 * streaks + 0.05 * noise) * 2.5 + 0.5, 0, 1) * skin
        hairs = 0.6 * streaks + 0.6 * noise
        cover = np.clip(0.36 + 0.12 * hairs, 0.05, 0.7) if stubble else np.clip(0.84 + 0.1 * hairs, 0.4, 0.97)
        tone = varied(base, np.maximum(1 + 0.22 * hairs, 0.3))
        region = Region(soft.top, soft.left, (edge * cover).astype(np.float32))
        s.canvas.paint(region, tone, gloss=0.0)
        s.canvas.facial_hair[soft.window] |= edge > 0.5
