"""One person, all parts in order, on a canvas; and what a camera makes of it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from rayface import records
from rayface.data.drawing.canvas import Canvas, cut_texture
from rayface.data.drawing.features import draw_features
from rayface.data.drawing.geometry import View
from rayface.data.drawing.hair import draw_back_hair, draw_facial_hair, draw_front_hair
from rayface.data.drawing.head import Sitter, draw_ears, draw_neck, draw_skin, landmarks
from rayface.data.drawing.person import Identity, Look, attributes
from rayface.data.drawing.wear import draw_clothes, draw_earrings, draw_glasses, draw_hat, draw_necklace

Array = np.ndarray

# Attributes that stay unknown where their class does not show in the picture.
_SHOWN_AS = {
    "ear_r": ("Wearing_Earrings",),
    "neck_l": ("Wearing_Necklace",),
    "hair": ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Straight_Hair", "Wavy_Hair"),
}


@dataclass
class Portrait:
    """What was drawn: landmarks float32 [5, 2] in pixels and attributes int8 [40] (1, -1, 0 unknown)."""

    landmarks: Array
    attributes: Array


def draw_portrait(canvas: Canvas, pixels: Array, who: Identity, look: Look, rng: np.random.Generator) -> Portrait:
    """Draw a person over what is on the canvas, so that the landmarks come as near as they can to `pixels` [5, 2]."""
    points = landmarks(who, look)
    view = View.turned(look.yaw, look.pitch, look.roll).fitted(points, pixels)
    s = Sitter(canvas, view, who, look, rng)
    draw_back_hair(s)
    draw_neck(s)
    draw_clothes(s)
    draw_necklace(s)
    draw_ears(s)
    draw_skin(s)
    draw_features(s)
    draw_facial_hair(s)
    draw_front_hair(s)
    draw_glasses(s)
    draw_earrings(s)
    draw_hat(s)
    canvas.facial_hair &= canvas.labels == records.PARSING_ID["skin"]  # hair, hats and glasses may lie over it
    return Portrait(view.project(points).astype(np.float32), _visible(s, attributes(who, look)))


def _visible(s: Sitter, values: Array) -> Array:
    """The attributes, with 0 for those that are true but do not show."""
    hidden = [
        name
        for shown, names in _SHOWN_AS.items()
        if not (s.canvas.labels == records.PARSING_ID[shown]).any()
        for name in names
    ]
    x, y = np.rint(s.view.project(np.array([[0, 2.05, 0.3]]))[0]).astype(int)
    inside = 0 <= x < s.canvas.width and 0 <= y < s.canvas.height
    if not inside or s.canvas.labels[y, x] != records.PARSING_ID["cloth"]:
        hidden.append("Wearing_Necktie")
    for index in (records.ATTRIBUTE_ID[name] for name in hidden):
        values[index] = min(values[index], 0)
    return values


def photograph(canvas: Canvas, look: Look, rng: np.random.Generator) -> Array:
    """The finished picture, uint8 [3, H, W]: light, exposure, lens blur and sensor noise."""
    key = np.array(look.light_colour, np.float32) * np.float32(1.2 * look.light_key)
    ambient = np.float32(1.02 - 0.93 * look.light_key) * np.array([0.98, 1.0, 1.03], np.float32)
    gain = float(np.clip(rng.normal(0.94, 0.09), 0.7, 1.12))
    contrast = float(rng.uniform(0.9, 1.2))
    noise = float(rng.gamma(1.4, 0.007))
    picture = canvas.develop(ambient, key)
    picture *= np.float32(255 * gain * contrast)
    picture += np.float32(255 * 0.45 * (1 - contrast) + 0.5)
    picture += np.float32(255 * noise) * cut_texture("grain", rng, canvas.height, canvas.width)
    np.clip(picture, 0, 255, out=picture)
    pixels = picture.astype(np.uint8)
    blur = rng.uniform(1.6, 3.0) if look.blurry else rng.uniform(-0.4, 0.6)
    radius = blur * canvas.unit / 63
    if radius > 0.35:
        channels = [Image.fromarray(channel).filter(ImageFilter.GaussianBlur(radius)) for channel in pixels]
        pixels = np.stack([np.asarray(channel) for channel in channels])
    return pixels
