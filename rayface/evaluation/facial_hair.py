"""Is the facial hair the one asked for, on the same person, and nothing else changed? Judges say (SPEC B6)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rayface.evaluation import limits
from rayface.evaluation.judges import ask, judging
from rayface.evaluation.limits import Values
from rayface.evaluation.metrics import bootstrap
from rayface.evaluation.subgroups import record
from rayface.imaging.filters import gaussian_blur, luminance, resize_images
from rayface.networks.hair_localiser import hair_of
from rayface.records import ATTRIBUTE_ID, FACIAL_HAIR, PARSING_ID

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Change = Callable[[Tensor, np.ndarray], Tensor]  # crops uint8 [N, 3, S, S], styles int64 [N] -> changed crops
SIDE = 256
# What of a style's score each label of the attribute judge (logits) counts. Other styles' labels, taken off, make the
# score worse on photos that the judge did not learn from.
SCORES: dict[str, dict[str, float]] = {
    "none": {"No_Beard": 1},
    "stubble": {"5_o_Clock_Shadow": 1},
    "moustache": {"Mustache": 1},
    "goatee": {"Goatee": 1},
    "full": {"Sideburns": 1, "Goatee": 1, "No_Beard": -1},
}
# Half way between most photos of other styles and most of the style, of the train split:
# `python -m benchmarks.facial_hair_judge`, which says too how good they are on test photos.
THRESHOLDS = {"none": 2.42, "stubble": -0.87, "moustache": -2.40, "goatee": -1.44, "full": -5.00}
LOWER_FACE_FROM = 0.45  # of the side: above it no facial hair grows in an aligned crop
NOT_CHANGED = 1.5 / 255  # mean absolute change of what should stay
CHANGED = 2 / 255  # the same of the hair's place, at least
SEAM = 2 / 255  # by how much the edge of what changed may be steeper than it was, mean luminance a pixel

# Per photo: at least, or at most; an edit that meets them all counts as `joint`.
LIMITS: dict[str, tuple[str, float]] = {
    "style_found": ("least", 1.0),
    "identity_distance": ("most", 0.4),
    "change_there": ("least", CHANGED),
    "change_elsewhere": ("most", NOT_CHANGED),
    "seam": ("most", SEAM),
}


def style_scores(logits: Tensor) -> Tensor:
    """How much the attribute judge's logits [N, 40] speak for each of FACIAL_HAIR: float [N, 5]."""
    rows = torch.zeros(len(FACIAL_HAIR), logits.shape[1])
    for number, style in enumerate(FACIAL_HAIR):
        for label, weight in SCORES[style].items():
            rows[number, ATTRIBUTE_ID[label]] = weight
    return logits.float() @ rows.T


@dataclass(frozen=True)
class Edits:
    """Faces of a data set (indices, int64 [M]) and the style (place in FACIAL_HAIR) that each is given, int64 [M]."""

    faces: np.ndarray
    styles: np.ndarray


def edits_of(attributes: np.ndarray, styles: np.ndarray, limit: int | None) -> dict[str, Edits]:
    """What is tried on faces with attributes int8 [N, 40] and styles int64 [N].

    `adding`: every style on every face of a man without; `removing`: from every face with; `women`: as `adding`. Of
    each kind of face the first `limit`.
    """
    male, bare = attributes[:, ATTRIBUTE_ID["Male"]] > 0, styles == 0
    worn = np.arange(1, len(FACIAL_HAIR))

    def each(chosen: np.ndarray) -> Edits:
        faces = np.flatnonzero(chosen)[:limit]
        return Edits(faces.repeat(len(worn)), np.tile(worn, len(faces)))

    bearded = np.flatnonzero(~bare)[:limit]
    return {
        "adding": each(bare & male),
        "removing": Edits(bearded, np.zeros(len(bearded), np.int64)),
        "women": each(bare & ~male),
    }


def facial_hair_report(
    change: Change, dataset: "FaceDataset", styles: np.ndarray, batch: int, limit: int | None
) -> dict[str, Any]:
    """Judge `change` on the faces of `dataset`, whose styles are int64 [N] (by their labels), as `edits_of` says.

    Per kind of edit, and of those that add for each style, the share (with intervals over edits) of
    - style_found: the attribute judge's score of the style is above its threshold (THRESHOLDS);
    - style_gain (a mean): by how much that score grew, in the judge's logits;
    - identity_distance: dlib's, median;
    - change_there, change_elsewhere: mean absolute change, of 0 to 1, of the lower face's skin and of all but it;
    - seam: how much steeper the edge of what changed became;
    - joint: edits that meet all of LIMITS. Where a judge is missing, so are its measures and `joint`.
    """
    attributes = np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"])
    judges = _Judges()
    report: dict[str, Any] = {}
    for kind, edits in edits_of(attributes, styles, limit).items():
        if not len(edits.faces):
            continue
        parts = []
        for start in range(0, len(edits.faces), batch):
            some = Edits(*(each[start : start + batch] for each in (edits.faces, edits.styles)))
            crops = dataset.batch(some.faces)["image"]
            assert isinstance(crops, Tensor)
            changed = change(crops, some.styles)
            parts.append(judges.measure(resize_images(crops, SIDE), resize_images(changed, SIDE), some.styles))
        values = {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}
        report[kind] = {"edits": len(edits.faces), **summary(values)}
        if kind == "adding":
            for number in np.unique(edits.styles):
                report[FACIAL_HAIR[number]] = summary({name: v[edits.styles == number] for name, v in values.items()})
        if LIMITS.keys() <= values.keys() and kind != "women":
            _record(kind, joint(values), edits, len(dataset))
    return report


def summary(values: Values) -> dict[str, Any]:
    """Means of the measures with intervals, and the share of `joint` edits."""
    return limits.summary(values, LIMITS, shares=("style_found",))


def joint(values: Values) -> np.ndarray:
    """Which edits meet all of LIMITS: float [M] of 0 and 1."""
    return limits.joint(values, LIMITS)


def hair_error(
    fill: Change, dataset: "FaceDataset", styles: np.ndarray, batch: int, limit: int | None
) -> dict[str, Any]:
    """How far facial hair that was hidden is from what `fill` paints in its place, on faces whose styles are known.

    Mean absolute difference, of 0 to 1, where the hair is: in the exact masks of drawn faces, on photos where their
    style has hair by `data.facial_hair_zones` and the parsing judge. {} where no face has any, or no judge is there.
    """
    faces = np.flatnonzero(styles > 0)[:limit]
    panel = judging()
    exact = dataset.manifest.get("format") == "synth"
    parser = None if exact else panel.network("parsing", ("hair_error",))
    if not len(faces) or not (exact or parser is not None):
        return {}
    errors = []
    for start in range(0, len(faces), batch):
        some = faces[start : start + batch]
        columns = ("image", "facial_hair_mask") if exact else ("image",)
        found = dataset.batch(some, columns)
        crops = found["image"]
        assert isinstance(crops, Tensor)
        if exact:
            where = found["facial_hair_mask"] > 0  # type: ignore[operator]
        else:
            where = _hair_place(ask(parser, resize_images(crops, SIDE), panel.device), styles[some])  # type: ignore[arg-type]
            where = resize_images(where.float(), crops.shape[-1])[:, 0] > 0.5
        difference = (fill(crops, styles[some]).float() - crops.float()).abs().mean(1) / 255
        errors.append(_mean_over(difference, where))
    return {"hair_error": bootstrap(np.concatenate(errors))}


def _hair_place(masks: Tensor, styles: np.ndarray) -> Tensor:
    from rayface.data.facial_hair_zones import facial_hair_zones

    return hair_of(facial_hair_zones(masks), torch.from_numpy(styles)).sum(1, keepdim=True)


class _Judges:
    """The judges that are at hand, and what they say of crops uint8 [N, 3, SIDE, SIDE] before and after an edit."""

    def __init__(self) -> None:
        panel = judging()
        self.device = panel.device
        self.attributes = panel.network("attributes", ("style_found",))
        self.identity = panel.network("identity", ("identity_distance",))
        self.parser = panel.network("parsing", ("change_there", "change_elsewhere"))

    def measure(self, before: Tensor, after: Tensor, styles: np.ndarray) -> Values:
        values: Values = {}
        if self.attributes is not None:
            asked = np.arange(len(styles)), styles
            old, new = (
                style_scores(ask(self.attributes, crops, self.device).logit(1e-6)).numpy()[asked]
                for crops in (before, after)
            )
            thresholds = np.array([THRESHOLDS[style] for style in FACIAL_HAIR])[styles]
            values["style_found"] = (new > thresholds).astype(float)
            values["style_gain"] = new - old
        if self.identity is not None:
            ours, theirs = (ask(self.identity, crops, self.device) for crops in (after, before))
            values["identity_distance"] = (ours - theirs).norm(dim=1).numpy()
        difference = (after.float() - before.float()).abs().mean(1) / 255
        if self.parser is not None:
            masks = ask(self.parser, before, self.device)
            there = lower_skin(masks)
            values["change_there"] = _mean_over(difference, there)
            values["change_elsewhere"] = _mean_over(difference, ~_widened(there))
        values["seam"] = seam(before, after)
        return values


def lower_skin(masks: Tensor) -> Tensor:
    """Skin below the nose's middle, and the neck: bool [N, S, S] of parts uint8 [N, S, S]."""
    skin = (masks == PARSING_ID["skin"]) | (masks == PARSING_ID["neck"])
    skin[:, : round(LOWER_FACE_FROM * masks.shape[-1])] = False
    return skin


def seam(before: Tensor, after: Tensor) -> np.ndarray:
    """By how much the edge of what changed is steeper than it was: float [N], luminance of 0 to 1 a pixel.

    The edge is where the change, smoothed, is a tenth to a third of its largest; 0 where nothing changed.
    """
    old, new = luminance(before), luminance(after)
    size = gaussian_blur((new - old).abs()[:, None], 4.0)[:, 0]
    most = size.amax((1, 2), keepdim=True).clamp_min(1e-6)
    edge = (size > 0.1 * most) & (size < 0.33 * most)
    steeper = (_slope(new) - _slope(old)) * (most > CHANGED)
    return _mean_over(steeper, edge).clip(0)


def _slope(light: Tensor) -> Tensor:
    """Length of the gradient of float [N, H, W], smoothed over 2 px: hairs are no seam."""
    smooth = gaussian_blur(light[:, None], 2.0)[:, 0]
    down, across = torch.gradient(smooth, dim=(1, 2))
    return (down**2 + across**2).sqrt()


def _widened(maps: Tensor) -> Tensor:
    """Bool [N, S, S] reaching 4 px further: an edge is nobody's."""
    return torch.nn.functional.max_pool2d(maps[:, None].float(), 9, 1, 4)[:, 0] > 0


def _mean_over(values: Tensor, where: Tensor) -> np.ndarray:
    return ((values * where).sum((1, 2)) / where.sum((1, 2)).clamp_min(1)).numpy()


def _record(kind: str, value: np.ndarray, edits: Edits, faces: int) -> None:
    """Hand over what subgroups are reported by: of each face the share of its edits; others have none."""
    whole = np.full(faces, np.nan)
    for face in np.unique(edits.faces):
        whole[face] = value[edits.faces == face].mean()
    record(f"joint_{kind}", whole)
