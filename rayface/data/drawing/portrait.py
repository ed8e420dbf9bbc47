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
_SHOWN_AS = {"Wearing_Earrings": "ear_r", "Wearing_Necklace": "neck_l", "Wearing_Necktie": "cloth"}


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
    values = attributes(who, look)
    for name, shown in _SHOWN_AS.items():
        index = records.ATTRIBUTE_ID[name]
        if values[index] == 1 and not (canvas.labels == records.PARSING_ID[shown]).any():
            values[index] = 0
    return Portrait(view.project(points).astype(np.float32), values)


def photograph(canvas: Canvas, look: Look, rng: np.random.Generator) -> Array:
    """The finished picture, uint8 [H, W, 3]: light, exposure, lens blur and sensor noise."""
    key = np.array(look.light_colour, np.float32) * np.float32(1.2 * look.light_key)
    ambient = np.float32(1.02 - 0.93 * look.light_key) * np.array([0.98, 1.0, 1.03], np.float32)
    gain = np.float32(np.clip(rng.normal(0.94, 0.09), 0.7, 1.12))
    picture = canvas.develop(ambient, key)
    picture *= gain
    contrast = np.float32(rng.uniform(0.9, 1.2))
    picture -= 0.45
    picture *= contrast
    picture += 0.45
    noise = float(rng.gamma(1.4, 0.007))
    picture += noise * cut_texture("grain", rng, canvas.height, canvas.width)[..., None]
    picture *= 255
    np.clip(picture, 0, 255, out=picture)
    pixels = picture.astype(np.uint8)
    blur = rng.uniform(1.6, 3.0) if look.blurry else rng.uniform(0, 0.55)
    radius = blur * canvas.unit / 63
    if radius > 0.25:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
    return pixels
