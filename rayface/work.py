"""What a request asks for, what travels between the stages of the pipeline, and what is reported at its end."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface.errors import RayfaceError

FACES = ("all", "largest")
SCALES = (2, 4)
# An enlarged photo has at most so many megapixels: 2 become 8 in seconds on a CPU, 12 would become 48.
MAX_OUTPUT_MEGAPIXELS = 32.0


@dataclass(frozen=True)
class Params:
    """What a request may choose."""

    strength: float = 1.0  # 0 keeps the face, 1 is the step's full output
    faces: str = "all"  # one of FACES
    scale: int = 2  # one of SCALES, for `upscale`

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:  # also false for NaN
            raise RayfaceError(f"strength is {self.strength}; give a number from 0 to 1.")
        if self.faces not in FACES:
            raise RayfaceError(f"faces is {self.faces!r}; give one of: {', '.join(FACES)}.")
        if self.scale not in SCALES:
            raise RayfaceError(f"scale is {self.scale!r}; give one of: {', '.join(map(str, SCALES))}.")


def check_params(params: Mapping[str, Any]) -> Params:
    """`params` as typed values. Raises RayfaceError naming an unknown key or a value out of range."""
    known = [item.name for item in dataclasses.fields(Params)]
    for key in params:
        if key not in known:
            raise RayfaceError(f"Unknown parameter {key!r}; known: {', '.join(known)}.")
    values = dict(params)
    for key, kind, what in (("strength", float, "a number from 0 to 1"), ("scale", int, "a whole number")):
        if key in values:
            try:
                values[key] = kind(values[key])
            except (TypeError, ValueError):
                raise RayfaceError(f"{key} is {values[key]!r}; give {what}.") from None
    return Params(**values)


def check_steps(steps: Sequence[str], known: Collection[str]) -> list[str]:
    """`steps` as a list. Raises RayfaceError, naming the known ones, for none, an unknown one or a double."""
    names = ", ".join(sorted(known))
    if not steps:
        raise RayfaceError(f"No step is given; known steps: {names}.", kind="unknown-step")
    for name in steps:
        if name not in known:
            raise RayfaceError(f"Unknown step {name!r}; known steps: {names}.", kind="unknown-step")
        if list(steps).count(name) > 1:
            raise RayfaceError(f"Step {name!r} is given twice; give each step once.")
    return list(steps)


@dataclass
class FaceReport:
    """What was found and done at one face; coordinates in pixels of the result."""

    box: list[float]  # x0 y0 x1 y1
    landmarks: list[list[float]]  # records.LANDMARKS order
    score: float
    size: float  # side of the square that its crop shows, px
    steps: list[str] = field(default_factory=list)  # applied, in order
    skipped: list[dict[str, str]] = field(default_factory=list)  # {"step": ..., "reason": ...}


@dataclass
class Report:
    """What happened to one photo; `dataclasses.asdict` makes JSON of it."""

    width: int  # of the result
    height: int
    input_width: int
    input_height: int
    steps: list[str]  # asked for
    faces: list[FaceReport]
    changed: int  # faces whose pixels are not the photo's own
    models: dict[str, str]  # stage -> name@version
    timings_ms: dict[str, float]
    notes: list[str] = field(default_factory=list)


@dataclass
class Result:
    """The processed photo, uint8 [3, H, W], and its report."""

    photo: Tensor
    report: Report


@dataclass
class Photo:
    """A photo between stages, as numpy like `Work`, with what was done to all of it.

    `pixels`: uint8 [3, H, W]; `input_width`, `input_height`: its size as it came.
    """

    pixels: np.ndarray
    input_width: int
    input_height: int
    models: dict[str, str] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, photo: Tensor) -> "Photo":
        """`photo`: uint8 [3, H, W]."""
        return cls(photo.numpy(), photo.shape[2], photo.shape[1])

    @property
    def enlarged(self) -> bool:
        return self.pixels.shape[1:] != (self.input_height, self.input_width)


@dataclass
class Work:
    """The faces of one photo between stages, as numpy: it travels through Ray, and may arrive read-only.

    `before`, `crops`: uint8 [N, 3, S, S] (S: see `stages.crop_size`), the photo's own and the current ones;
    `matrices`: float32 [N, 2, 3], photo to crop pixels; `masks`: uint8 [N, S, S] once parsed; `faces`: N
    reports; `others`: reports of faces that are left alone; `changed`: bool [N]; `match_colour`: only steps that
    sharpen were applied, which have no business with colours, so that any shift of them is drift.
    """

    width: int
    height: int
    before: np.ndarray
    crops: np.ndarray
    matrices: np.ndarray
    faces: list[FaceReport]
    others: list[FaceReport]
    changed: np.ndarray
    match_colour: bool = True
    masks: np.ndarray | None = None
    models: dict[str, str] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)


def tensor(array: np.ndarray) -> Tensor:
    """`array` as a tensor; a read-only one (from Ray's object store) is copied, as torch has none."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
