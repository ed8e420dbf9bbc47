"""The photos that are posted: real faces, placed so that their number and size are known."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rayface.errors import RayfaceError
from rayface.imaging.codec import decode, encode

# name -> (width, height, places of faces as x, y, height of the face photo)
LAYOUTS: dict[str, tuple[int, int, list[tuple[int, int, int]]]] = {
    "640": (640, 640, [(100, 50, 540)]),
    "1280x960": (1280, 960, [(100, 20, 440), (740, 20, 440), (100, 500, 440), (740, 500, 440)]),
    "12mp": (4000, 3000, [(300, 300, 1600), (2300, 900, 1200)]),
}


def payloads(folder: str, names: list[str]) -> dict[str, bytes]:
    """JPEG bytes by name: photos of one face each from `folder`, in order of their names, on an even ground."""
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    need = max(len(LAYOUTS[name][2]) for name in names)
    if len(files) < need:
        raise RayfaceError(f"--photos {folder} holds {len(files)} pictures; {need} are needed, of one face each")
    faces = [decode(path.read_bytes()) for path in files[:need]]
    return {name: encode(compose(*LAYOUTS[name], faces), "jpeg", 90) for name in names}


def compose(width: int, height: int, places: list[tuple[int, int, int]], faces: list[Tensor]) -> Tensor:
    """uint8 [3, height, width]: each face photo enlarged to its place."""
    canvas = torch.full((3, height, width), 110, dtype=torch.uint8)
    for (x, y, tall), face in zip(places, faces, strict=False):
        wide = round(tall * face.shape[2] / face.shape[1])
        large = interpolate(face[None].float(), (tall, wide), mode="bicubic", antialias=True, align_corners=False)
        canvas[:, y : y + tall, x : x + wide] = large[0].round().clamp(0, 255).to(torch.uint8)
    return canvas
