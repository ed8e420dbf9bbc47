"""Is a face more attractive, and is it still that person's? Judges say; none of them trained the model (SPEC A8)."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.evaluation import limits
from rayface.evaluation.classical_beauty import smooth_and_warp
from rayface.evaluation.gallery import Gallery, people_in
from rayface.evaluation.judges import JUDGED_METRICS, ask, judging
from rayface.evaluation.limits import Values
from rayface.evaluation.segmentation import REGIONS, counts
from rayface.evaluation.skin_tone import typology_angle
from rayface.evaluation.subgroups import record
from rayface.imaging.codec import decode, encode, to_float, to_uint8
from rayface.imaging.filters import gaussian_blur, resize_images
from rayface.records import ATTRIBUTE_ID, PARSING_ID

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Change = Callable[[Tensor], Tensor]  # crops uint8 [N, 3, S, S] -> changed crops
SIDE = 256  # of the crops that the judges see
LEAST_GAP = 0.1  # logits

# Per face: at least, or at most; a face that meets them all counts as `joint`.
LIMITS: dict[str, tuple[str, float]] = {
    "attractiveness_shift": ("least", 0.25),
    "identity_distance": ("most", 0.4),
    "ranks_first": ("least", 1.0),
    "parsing_agreement": ("least", 0.85),
    "guarded_agreement": ("least", 0.9),
}


def jpeg_75(crops: Tensor) -> Tensor:
    return torch.stack([decode(encode(crop, "jpeg", 75)) for crop in crops])


def blur_2px(crops: Tensor) -> Tensor:
    return to_uint8(gaussian_blur(to_float(crops), 2.0))


SURVIVES: dict[str, Change] = {"as it is": lambda crops: crops, "JPEG 75": jpeg_75, "2 px blur": blur_2px}


def beautification_report(
    change: Change,
    dataset: "FaceDataset",
    guarded: Sequence[str],
    batch: int,
    limit: int | None,
    others: Mapping[str, Change] | None = None,
) -> dict[str, Any]:
    """Judge `change` on the ordinary faces of `dataset` (labelled not Attractive), a classical method, and `others`.

    Per method the mean over faces, with intervals, of
    - attractiveness_shift: by how much of the gap between ordinary and attractive faces (of the dataset; mean logits of
      the attribute judge) a face moved: the least of as it is, after JPEG 75 and after a blur of 2 px, against its
      input after the same;
    - identity_distance (dlib, median), identity_distance_second, ranks_first: whether of many people the input is
      the nearest to the output (`evaluation.gallery`);
    - parsing_agreement: mean IoU of the face's regions in the masks of input and output;
    - guarded_agreement: share of `guarded` attributes with the same answer; gender_flips;
    - skin_tone_change: absolute, degrees of ITA; skin_lightening: signed;
    - joint: faces that meet all of LIMITS. Where a judge is missing, so are its measures and `joint`.
    """
    ordinary, attractive = _kinds(dataset, limit)
    judges = _Judges(guarded, dataset, batch)
    gap = judges.gap(ordinary, attractive)
    methods: dict[str, Change] = {**(others or {}), "model": change}
    if judging().baselines and judges.parser is not None:
        methods = {"smoothing": lambda part: smooth_and_warp(part, judges.masks(part)), **methods}
    report: dict[str, Any] = {"faces": len(ordinary), "people": people_in(dataset)}
    report |= {"gap": gap} if judges.attributes is not None else {}
    for name, method in methods.items():
        parts = []  # a few faces in memory at a time
        for start in range(0, len(ordinary), batch):
            indices = ordinary[start : start + batch]
            crops = dataset.batch(indices)["image"]
            assert isinstance(crops, Tensor)
            parts.append(judges.measure(indices, _seen(crops), _seen(method(crops)), gap))
        values = {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}
        report[name] = summary(values)
        if name == "model":
            _record(values, ordinary, len(dataset))
    return report


def summary(values: Values) -> dict[str, Any]:
    """Means of the measures with intervals, and the share of `joint` faces."""
    return limits.summary(values, LIMITS)


def joint(values: Values) -> np.ndarray:
    """Which faces meet all of LIMITS: float [N] of 0 and 1."""
    return limits.joint(values, LIMITS)


class _Judges:
    """The judges that are at hand, and what they say of faces of `dataset`, before and after."""

    def __init__(self, guarded: Sequence[str], dataset: "FaceDataset", batch: int) -> None:
        panel = judging()
        self.device, self.dataset, self.batch = panel.device, dataset, batch
        self.guarded = [ATTRIBUTE_ID[name] for name in guarded]
        told = ("attractiveness_shift", "guarded_agreement", "gender_flips")
        self.attributes = panel.network("attributes", told)
        self.identity = panel.network("identity", ("identity_distance", "ranks_first"))
        self.identity_second = panel.network("identity_second", ("identity_distance_second",))
        seen = ("parsing_agreement", "skin_tone_change", "skin_lightening", "smoothing")
        self.parser = panel.network("parsing", seen)
        self.gallery = None if self.identity is None else Gallery(dataset, self.identity, batch)

    def of(self, network: nn.Module, indices: np.ndarray) -> Tensor:
        """What a judge says of faces of the data set."""
        starts = range(0, len(indices), self.batch)
        crops = (self.dataset.batch(indices[start : start + self.batch])["image"] for start in starts)
        return torch.cat([self.look(network, _seen(part)) for part in crops])  # type: ignore[arg-type]

    def look(self, network: nn.Module, crops: Tensor) -> Tensor:
        return ask(network, crops, self.device)

    def masks(self, crops: Tensor) -> Tensor:
        assert self.parser is not None
        return self.look(self.parser, crops)

    def logits(self, crops: Tensor) -> Tensor:
        assert self.attributes is not None
        return self.look(self.attributes, crops).logit(1e-6)

    def gap(self, ordinary: np.ndarray, attractive: np.ndarray) -> float:
        """Between the mean attractiveness (logits) of the two kinds of faces; NaN where there is no judge of it.

        Raises RayfaceError where there is none: shifts by parts of it would mean nothing.
        """
        if self.attributes is None:
            return float("nan")
        first, second = (
            self.of(self.attributes, kind).logit(1e-6)[:, ATTRIBUTE_ID["Attractive"]] for kind in (ordinary, attractive)
        )
        gap = float(second.mean() - first.mean())
        if gap < LEAST_GAP:
            raise RayfaceError(
                f"the judge sees no more attractiveness in the {len(second)} faces labelled so than in the "
                f"{len(first)} others (a gap of {gap:.2f} logits); take more faces, or better labels",
                kind="bad-labels",
            )
        return gap

    def measure(self, indices: np.ndarray, before: Tensor, after: Tensor, gap: float) -> Values:
        """Of the faces `indices`, crops uint8 [N, 3, SIDE, SIDE] before and after."""
        values: Values = {}
        if self.attributes is not None:
            values |= self._attribute_values(before, after, gap)
        if self.identity is not None:
            values |= self._identity_values(indices, before, after)
        if self.identity_second is not None:
            distance = JUDGED_METRICS["identity_distance_second"][1]
            ours, theirs = self.look(self.identity_second, after), self.look(self.identity_second, before)
            values["identity_distance_second"] = distance(ours, theirs).numpy()
        if self.parser is not None:
            values |= self._parsing_values(before, after)
        return values

    def _attribute_values(self, before: Tensor, after: Tensor, gap: float) -> Values:
        place = ATTRIBUTE_ID["Attractive"]
        looks = [(self.logits(survive(before)), self.logits(survive(after))) for survive in SURVIVES.values()]
        shifts = [(new - old)[:, place] / gap for old, new in looks]
        old, new = (logits > 0 for logits in looks[0])  # as it is
        male = ATTRIBUTE_ID["Male"]
        return {
            "attractiveness_shift": torch.stack(shifts).amin(0).numpy(),
            "guarded_agreement": (old == new)[:, self.guarded].float().mean(1).numpy(),
            "gender_flips": (old != new)[:, male].float().numpy(),
        }

    def _identity_values(self, indices: np.ndarray, before: Tensor, after: Tensor) -> Values:
        assert self.identity is not None
        assert self.gallery is not None
        ours, theirs = self.look(self.identity, after), self.look(self.identity, before)
        return self.gallery.compared(indices, ours, theirs)

    def _parsing_values(self, before: Tensor, after: Tensor) -> Values:
        old, new = self.masks(before), self.masks(after)
        skin = old == PARSING_ID["skin"]
        tone = (typology_angle(after, skin) - typology_angle(before, skin) + 180) % 360 - 180  # of angles
        return {
            "parsing_agreement": region_iou(counts(new.numpy(), old.numpy())),
            "skin_tone_change": tone.abs().numpy(),
            "skin_lightening": tone.numpy(),
        }


def region_iou(per_photo: np.ndarray) -> np.ndarray:
    """Mean IoU of each photo's regions (those in either mask), float [N], of counts [N, 19, 3]."""
    found = []
    for names in REGIONS.values():
        both, ours, theirs = np.moveaxis(per_photo[:, [PARSING_ID[name] for name in names]].sum(1), 1, 0)
        union = both + ours + theirs
        found.append(np.where(union > 0, both / np.maximum(union, 1), np.nan))
    return np.nanmean(np.stack(found), 0)


def _kinds(dataset: "FaceDataset", limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the ordinary and of the attractive faces, by the data's labels; the first `limit` of each."""
    attributes = dataset.batch(range(len(dataset)), ("attributes",))["attributes"]
    attractive = np.asarray(attributes)[:, ATTRIBUTE_ID["Attractive"]]
    kinds = np.flatnonzero(attractive < 0)[:limit], np.flatnonzero(attractive > 0)[:limit]
    if not all(map(len, kinds)):
        raise RayfaceError(
            f"{dataset.path}, split {dataset.split!r}, has {len(kinds[0])} ordinary and {len(kinds[1])} attractive "
            "faces; judging takes both, or there is no gap to measure by",
            kind="bad-labels",
        )
    return kinds


def _seen(crops: Tensor) -> Tensor:
    """Crops of any side as judges see them."""
    return resize_images(crops, SIDE)


def _record(values: Values, ordinary: np.ndarray, faces: int) -> None:
    """Hand over what subgroups are reported by; faces that were not ordinary have no value."""
    shown: Values = {
        name: values[name] for name in ("attractiveness_shift", "skin_lightening", "gender_flips") if name in values
    }
    if LIMITS.keys() <= values.keys():
        shown["joint"] = joint(values)
    for name, value in shown.items():
        whole = np.full(faces, np.nan)
        whole[ordinary] = value
        record(name, whole)
