"""The one face record: Arrow schema, landmark order, parsing classes, attribute names.

Everything that stores, trains on, evaluates or serves faces uses these definitions, and every shard and every
model carries `schema_metadata()`, so that a mismatch (two 19-class orders are in use in the field) is an error
and never a silently broken mask.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from rayface.errors import RayfaceError

# Changes when a field changes its meaning; a new nullable field does not need it: older shards read as null there.
SCHEMA_VERSION = "1"
SPLITS = ("train", "validation", "test")

# "left" is the left side of the picture.
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")

# Five-point template: where the landmarks lie in an aligned square crop, as a fraction of its side.
FFHQ_TEMPLATE = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
     [313.08905, 371.15118]], np.float32) / 512  # fmt: skip

# CelebAMask-HQ's own order (BiSeNet's differs). l_/r_ are the person's own left and right.
PARSING_CLASSES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth",
    "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
PARSING_ID = {name: index for index, name in enumerate(PARSING_CLASSES)}
# What a class id becomes when the picture is mirrored.
PARSING_FLIP = np.array(
    [PARSING_ID[{"l_": "r_", "r_": "l_"}.get(n[:2], n[:2]) + n[2:]]
     if n in {"l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"} else PARSING_ID[n] for n in PARSING_CLASSES],
    np.uint8)  # fmt: skip
# Colours for pictures of masks, one per class.
PARSING_COLOURS = np.array(
    [[0, 0, 0], [226, 178, 150], [200, 120, 90], [60, 60, 60], [40, 110, 220], [80, 170, 250], [110, 70, 30],
     [150, 100, 50], [230, 140, 160], [250, 170, 190], [140, 10, 40], [210, 50, 80], [235, 90, 110], [100, 60, 150],
     [240, 200, 40], [255, 240, 120], [190, 240, 200], [180, 140, 110], [60, 150, 90]], np.uint8)  # fmt: skip
# The order of the five landmarks after mirroring.
LANDMARK_FLIP = np.array([1, 0, 2, 4, 3])

# CelebA's 40 attributes in CelebA's (alphabetical) order.
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open",
    "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
ATTRIBUTE_ID = {name: index for index, name in enumerate(ATTRIBUTES)}

FACIAL_HAIR = ("none", "stubble", "moustache", "goatee", "full")
FACIAL_HAIR_LABELS = ("5_o_Clock_Shadow", "Goatee", "Mustache", "No_Beard", "Sideburns")  # that tell the styles
FACIAL_HAIR_ZONES = ("moustache", "chin", "jaw")
# Where each style has hair.
STYLE_ZONES: dict[str, tuple[str, ...]] = {
    "none": (),
    "stubble": FACIAL_HAIR_ZONES,
    "moustache": ("moustache",),
    "goatee": ("moustache", "chin"),
    "full": FACIAL_HAIR_ZONES,
}


def facial_hair_style(attributes: Mapping[str, bool]) -> str:
    """The facial-hair class (B1) of a face from its CelebA labels (RECIPES' definitions; first match wins)."""
    moustache, goatee = attributes["Mustache"], attributes["Goatee"]
    sideburns, stubble = attributes["Sideburns"], attributes["5_o_Clock_Shadow"]
    if sideburns and (goatee or moustache):
        return "full"
    if goatee and not sideburns:
        return "goatee"
    if moustache and not goatee and not sideburns:
        return "moustache"
    if stubble and not (moustache or goatee or sideburns):
        return "stubble"
    return "none" if attributes["No_Beard"] else "full"


def schema_metadata() -> dict[str, str]:
    """The definitions a shard or a model was made with, as strings for Arrow or safetensors metadata."""
    return {
        "rayface.schema": SCHEMA_VERSION,
        "rayface.landmarks": json.dumps(LANDMARKS),
        "rayface.parsing_classes": json.dumps(PARSING_CLASSES),
        "rayface.attributes": json.dumps(ATTRIBUTES),
    }


FACE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique in a dataset: relative path, "#k" for the k-th face
        pa.field("source", pa.string(), nullable=False),  # for example "celeba", "folder", "synth"
        pa.field("split", pa.string(), nullable=False),  # one of SPLITS; no identity is in two of them
        pa.field("identity", pa.string()),
        pa.field("image", pa.binary(), nullable=False),  # the aligned square crop, JPEG or PNG, sRGB
        pa.field("size", pa.int32(), nullable=False),  # its side in pixels
        pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False),  # x, y in crop pixels, LANDMARKS order
        pa.field("mask", pa.binary()),  # 8-bit PNG of PARSING_CLASSES ids, as large as the image
        pa.field("facial_hair_mask", pa.binary()),  # 8-bit PNG, 0 or 255
        pa.field("attributes", pa.list_(pa.int8(), 40)),  # 1 yes, -1 no, 0 unknown, ATTRIBUTES order
        pa.field("embedding", pa.list_(pa.float32())),  # of a recogniser, unit length; dataset.json says which
        pa.field("sharpness", pa.float32()),  # imaging.quality.face_sharpness
        pa.field("swap_method", pa.string()),  # null: nobody's face was swapped; else one of swapping.methods.METHODS
        pa.field("swap_texture", pa.string()),  # id of the photo that the face was put into, in the set it came from
        pa.field("swap_donor", pa.string()),  # id of the photo that shows who it is now
        pa.field("retouched_by", pa.string()),  # null: as photographed; else the model (name@version) that changed it
    ],
    metadata=schema_metadata(),
)


def check_metadata(found: Mapping[str, str] | None, where: str) -> None:
    """Refuse data or models made with other definitions.

    Raises RayfaceError naming `where`, the definition that differs and how to mend it.
    """
    expected = schema_metadata()
    for key, value in expected.items():
        got = (found or {}).get(key)
        if got != value:
            raise RayfaceError(
                f"{where}: {key} is {got!r}, this version of rayface uses {value!r}; ingest the data again with "
                "`rayface data ingest`, or use the version that wrote it.",
                kind="schema-mismatch",
            )
