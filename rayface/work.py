"""What a request asks for, what travels between the stages of the pipeline, and what is reported at its end."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.records import ATTRIBUTES, FACIAL_HAIR

FACES = ("all", "largest", "boxes")
Box = tuple[float, float, float, float]  # x0 y0 x1 y1
SCALES = (2, 4)
# An enlarged photo has at most so many megapixels: 2 become 8 in seconds on a CPU, 12 would become 48.
MAX_OUTPUT_MEGAPIXELS = 32.0


@dataclass(frozen=True)
class Params:
    """What a request may choose."""

    strength: float = 1.0  # 0 keeps the face, 1 is the step's full output
    faces: str = "all"  # one of FACES
    scale: int = 2  # one of SCALES, for `upscale`
    # With faces="boxes", and only then: a face whose middle (of its detected box) lies in one of these is processed.
    # In pixels of the photo as it was sent, upright (EXIF orientation applied), whatever `upscale` makes of it.
    boxes: tuple[Box, ...] = ()
    style: str = ""  # one of records.FACIAL_HAIR, for `facial_hair`, which needs it
    add: tuple[str, ...] = ()  # of records.ATTRIBUTES, for `edit_attributes`, which needs one here or in `remove`
    remove: tuple[str, ...] = ()
    # For `swap`: whose identity is given, an aligned face uint8 [3, S, S] (`Pipeline.donor`).
    donor: np.ndarray | None = field(default=None, repr=False, compare=False)
    consent: bool = False  # for `swap`: who asks states that the people in both photos agreed

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:  # also false for NaN
            raise RayfaceError(f"strength is {self.strength}; give a number from 0 to 1.")
        if self.faces not in FACES:
            raise RayfaceError(f"faces is {self.faces!r}; give one of: {', '.join(FACES)}.")
        if self.scale not in SCALES:
            raise RayfaceError(f"scale is {self.scale!r}; give one of: {', '.join(map(str, SCALES))}.")
        if self.style and self.style not in FACIAL_HAIR:
            raise RayfaceError(f"style is {self.style!r}; give one of: {', '.join(FACIAL_HAIR)}.")
        for key in ("add", "remove"):
            for name in getattr(self, key):
                if name not in ATTRIBUTES:
                    raise RayfaceError(f"{key} is {name!r}; give names among: {', '.join(ATTRIBUTES)}.")
        if self.donor is not None and getattr(self.donor, "ndim", 0) != 3:
            raise RayfaceError("donor must be an aligned face, an array [3, S, S]; see Pipeline.donor.")
        if both := sorted(set(self.add) & set(self.remove)):
            raise RayfaceError(f"{', '.join(both)} is to be added and removed; give it once.")
        for box in self.boxes:
            _check_box(box)
        if self.faces == "boxes" and not self.boxes:
            raise RayfaceError(f"faces is 'boxes' and no boxes are given; give {BOXES_LOOK}.")
        if self.faces != "boxes" and self.boxes:
            raise RayfaceError(f"boxes are given and faces is {self.faces!r}; give faces=boxes too, or no boxes.")


BOXES_LOOK = "boxes=x0,y0,x1,y1 in pixels of the photo, several separated by semicolons, for example 40,32,180,200"


def _check_box(box: Box) -> None:
    if not all(map(math.isfinite, box)):
        raise RayfaceError(f"boxes: {box_text(box)} has a value that is not a finite number; give {BOXES_LOOK}.")
    if not (box[2] > box[0] and box[3] > box[1]):
        raise RayfaceError(f"boxes: {box_text(box)} is empty; x1 must be above x0, and y1 above y0.")


def box_text(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Boxes as text, `x0,y0,x1,y1;x0,y0,x1,y1`; none in an empty one.

    Raises RayfaceError for what is not four numbers; `Params` checks their values.
    """
    return _boxes(part.split(",") for part in text.split(";") if part.strip())


def _boxes(boxes: Iterable[Any]) -> tuple[Box, ...]:
    """Boxes of any sequences of four numbers."""
    found: list[Box] = []
    for box in boxes:
        try:
            x0, y0, x1, y1 = (float(value) for value in box)
        except (TypeError, ValueError):
            shown = ",".join(map(str, box)) if isinstance(box, Sequence) else box
            raise RayfaceError(f"boxes: {shown!r} is not four numbers; give {BOXES_LOOK}.") from None
        found.append((x0, y0, x1, y1))
    return tuple(found)


def parse_names(text: str) -> tuple[str, ...]:
    """Names as text, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_consent(text: str) -> bool:
    """What a form or a command line says of consent. Raises RayfaceError for anything but true and false."""
    if text not in ("", "true", "false"):
        raise RayfaceError(f"consent is {text!r}; give true or false.")
    return text == "true"


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
                number = float(values[key])
                if isinstance(values[key], bool) or (kind is int and not number.is_integer()):
                    raise ValueError
                values[key] = kind(number)
            except (TypeError, ValueError):
                raise RayfaceError(f"{key} is {values[key]!r}; give {what}.") from None
    if not isinstance(values.get("consent", False), bool):
        values["consent"] = parse_consent(str(values["consent"]))
    for key in ("add", "remove"):
        if key in values:
            names = values[key]
            if isinstance(names, str):
                values[key] = parse_names(names)
            elif isinstance(names, Iterable):
                values[key] = tuple(map(str, names))
            else:
                raise RayfaceError(f"{key} is {names!r}; give names of attributes, for example Smiling,Bangs.")
    if "boxes" in values:
        boxes = values["boxes"]
        if isinstance(boxes, str):
            values["boxes"] = parse_boxes(boxes)
        else:
            values["boxes"] = _boxes(boxes if isinstance(boxes, Iterable) else [boxes])
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


def check_asked(steps: Sequence[str], params: Params) -> None:
    """Raises RayfaceError where a step needs a parameter that is not given; of a swap see `check_swap`."""
    if "facial_hair" in steps and not params.style:
        raise RayfaceError(f"facial_hair needs a style: give style, one of: {', '.join(FACIAL_HAIR)}.")
    if "edit_attributes" in steps and not (params.add or params.remove):
        raise RayfaceError("edit_attributes needs attributes: give add or remove, for example add=Smiling.")


def check_swap(steps: Sequence[str], donor: bool, consent: bool) -> None:
    """Raises RayfaceError for a swap without a donor or consent, and for a donor without a swap."""
    if "swap" not in steps:
        if donor:
            raise RayfaceError("donor is given and no step swaps faces; leave it out, or add the step swap.")
        return
    if not donor:
        raise RayfaceError("swap needs a donor: give the photo whose face is to be shown, as donor.")
    if not consent:
        raise RayfaceError(
            "swap needs consent: give consent=true if the people in both photos agreed to it. Without their agreement "
            "it is not done.",
            status=403,
            kind="consent-needed",
        )


def of_the_donor(error: RayfaceError) -> RayfaceError:
    """What is wrong with a photo, where that is the donor's."""
    return RayfaceError(f"The donor's photo: {error}", status=error.status, kind=error.kind)


@dataclass
class FaceReport:
    """What was found and done at one face; coordinates in pixels of the result."""

    box: list[float]  # x0 y0 x1 y1
    landmarks: list[list[float]]  # records.LANDMARKS order
    score: float
    size: float  # side of the square that its crop shows, px
    steps: list[str] = field(default_factory=list)  # applied, in order
    skipped: list[dict[str, str]] = field(default_factory=list)  # {"step": ..., "reason": ...}
    # By the identity guard: cosine of the photo's own face and what the steps made of it; None: not compared.
    similarity: float | None = None
    kept: float = 1.0  # share of the steps' change that the guard let through
    # By the swap detector, where a step swaps or it was asked: how likely this face was swapped; None: not judged.
    swapped: float | None = None


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
    def enlargement(self) -> float:
        """How many times larger it is than it came."""
        return self.pixels.shape[2] / self.input_width


@dataclass
class Work:
    """The faces of one photo between stages, as numpy: it travels through Ray, and may arrive read-only.

    `before`, `crops`: uint8 [N, 3, S, S] (S: see `stages.crop_size`), the photo's own and the current ones;
    `matrices`: float32 [N, 2, 3], photo to crop pixels; `masks`: uint8 [N, S, S] once parsed; `faces`: N
    reports; `others`: reports of faces that are left alone; `changed`: bool [N]; `match_colour`: only steps that
    sharpen were applied, which have no business with colours, so that any shift of them is drift; `keep_identity`:
    no step was applied that changes who is seen on purpose; `notes`: for the report.
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
    keep_identity: bool = True
    masks: np.ndarray | None = None
    models: dict[str, str] = field(default_factory=dict)
    timings_ms: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def tensor(array: np.ndarray) -> Tensor:
    """`array` as a tensor; a read-only one (from Ray's object store) is copied, as torch has none."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
