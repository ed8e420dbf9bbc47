"""Is a swapped face the donor's, in the pose, the expression and the surroundings of the other? Judges say (SPEC E)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.detector import load_detector
from rayface.errors import RayfaceError
from rayface.evaluation import limits
from rayface.evaluation.classical_swap import blended
from rayface.evaluation.gallery import SIDE, Gallery, people_in, people_of
from rayface.evaluation.judges import ask, judged_metrics, judging
from rayface.evaluation.limits import Values
from rayface.evaluation.metrics import bootstrap, psnr
from rayface.evaluation.subgroups import record
from rayface.imaging.blended_swap import FACE
from rayface.imaging.filters import resize_images
from rayface.randomness import generator
from rayface.records import ATTRIBUTE_ID, PARSING_ID

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

# crops uint8 [N, 3, S, S] and donors' crops of the same shape (None: nobody's identity) -> swapped crops
Swap = Callable[[Tensor, Tensor | None], Tensor]
SEED = 20_260  # of the pairs
WIDER = 6  # px of 256 by which the face may be left: the border is soft
# judge -> measure of the donor being the nearest of all, and of the texture's own person
FIRST = {"identity": ("donor_first", "own_first"), "identity_second": ("donor_first_second", "own_first_second")}

# Per pair: at least, or at most; one that meets them all counts as `joint`.
LIMITS: dict[str, tuple[str, float]] = {
    "donor_first": ("least", 1.0),
    "donor_first_second": ("least", 1.0),
    "landmarks": ("most", 0.08),  # of the eye distance
    "elsewhere": ("most", 1.5 / 255),  # mean absolute change, of 0 to 1, outside the face
}


def donors_of(dataset: "FaceDataset", limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Faces that get another identity and the faces that it is of, int64 [M] each: the first `limit` of the data set.

    A donor is another person, of the same sex where the labels say it, the same one at every call.
    """
    people = people_of(dataset)
    attributes = np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"])
    male = attributes[:, ATTRIBUTE_ID["Male"]]
    if len(set(people)) < 2:
        raise RayfaceError(f"{dataset.path} shows one person in this split; swaps need two", kind="bad-labels")
    faces = np.arange(min(len(dataset), limit or len(dataset)))
    donors = []
    for face in faces:
        others = np.flatnonzero((people != people[face]) & (male == male[face]))
        others = others if len(others) else np.flatnonzero(people != people[face])
        donors.append(int(generator(SEED, int(face), 0, "swap pairs").choice(others)))
    return faces, np.array(donors)


def face_swap_report(swap: Swap, dataset: "FaceDataset", batch: int, limit: int | None) -> dict[str, Any]:
    """Judge `swap` on pairs of different people of `dataset`, with intervals over pairs.

    `swaps`, per pair:
    - donor_first, donor_first_second: of the donor's photo, the texture's own, and one each of the other PEOPLE the
      donor's is the nearest (dlib's network; FaceRes); own_first...: the texture's own is;
    - identity_distance (dlib, median) to the donor, identity_own to the texture's person;
    - landmarks: mean distance of the detector's five landmarks from where they were, in eye distances (where no
      face is found it is infinite: no limit is met, and it is in no mean);
    - elsewhere: mean absolute change, of 0 to 1, of all but the face;
    - joint: pairs that meet all of LIMITS.
    `blend`: the same of the classical swap, which has the donor's own pixels: so much of a donor can judges see amid
    the texture's photo. `nobody`: own_first of faces drawn with nobody's identity: what of who it is comes through the
    texture. `again`: PSNR and perceptual distance of faces that are given their own identity.
    """
    faces, donors = donors_of(dataset, limit)
    judges, people = _Judges(dataset, batch), people_of(dataset)
    parts: dict[str, list[Values]] = {"swaps": [], "blend": [], "nobody": [], "again": []}
    metrics = {name: metric for name, metric in judged_metrics().items() if name == "perceptual_distance"}
    for start in range(0, len(faces), batch):
        some, theirs = faces[start : start + batch], donors[start : start + batch]
        crops, given = (dataset.batch(chosen)["image"] for chosen in (some, theirs))
        assert isinstance(crops, Tensor)
        assert isinstance(given, Tensor)
        before = resize_images(crops, SIDE)
        known = judges.known(before), judges.known(resize_images(given, SIDE))
        whose = people[some], people[theirs]
        pairs = list(zip(some.tolist(), theirs.tolist(), strict=True))
        for part, swapped in (("swaps", swap(crops, given)), ("blend", blended(dataset, pairs))):
            after = resize_images(swapped, SIDE)
            parts[part].append(judges.compared(after, *known, *whose) | judges.kept(before, after))
        nobody = resize_images(swap(crops, None), SIDE)
        own = judges.compared(nobody, *known, *whose)
        parts["nobody"].append({name: value for name, value in own.items() if name.startswith("own_first")})
        again = resize_images(swap(crops, crops), SIDE)
        measures = {"psnr": psnr(again, before)} | {name: metric(again, before) for name, metric in metrics.items()}
        parts["again"].append({name: np.asarray(value) for name, value in measures.items()})
    joined = {name: _joined(some) for name, some in parts.items()}
    report: dict[str, Any] = {"pairs": len(faces), "people": people_in(dataset)}
    shares = [name for both in FIRST.values() for name in both]
    for part in ("swaps", "blend"):
        report[part] = limits.summary(joined[part], LIMITS, shares)
    for part in ("nobody", "again"):
        report[part] = {name: bootstrap(value) for name, value in joined[part].items()}
    for_groups = {name: values for name, values in joined["swaps"].items() if name == "donor_first"}
    if LIMITS.keys() <= joined["swaps"].keys():
        for_groups["joint"] = limits.joint(joined["swaps"], LIMITS)
    for measure, values in for_groups.items():
        whole = np.full(len(dataset), np.nan)
        whole[faces] = values
        record(measure, whole)
    return report


def _joined(parts: list[Values]) -> Values:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


class _Judges:
    """The judges that are at hand, and the people among whom a face is to be found."""

    def __init__(self, dataset: "FaceDataset", batch: int) -> None:
        panel = judging()
        self.device = panel.device
        self.identity: dict[str, nn.Module] = {}
        for judge, names in FIRST.items():
            extra = ("identity_distance", "identity_own") if judge == "identity" else ()
            network = panel.network(judge, (*names, *extra))
            if network is not None:
                self.identity[judge] = network
        self.parser = panel.network("parsing", ("elsewhere",))
        self.detector = load_detector()
        self.galleries = {judge: Gallery(dataset, network, batch) for judge, network in self.identity.items()}

    def known(self, crops: Tensor) -> dict[str, Tensor]:
        """What the identity judges see in crops uint8 [N, 3, SIDE, SIDE]: float [N, D] each."""
        return {judge: ask(network, crops, self.device) for judge, network in self.identity.items()}

    def compared(
        self, after: Tensor, own: dict[str, Tensor], donors: dict[str, Tensor], person: np.ndarray, donor: np.ndarray
    ) -> Values:
        """Who swapped crops look like: `own` and `donors` are what judges saw in photos of `person` and `donor`."""
        values: Values = {}
        for judge, seen in self.known(after).items():
            gallery = self.galleries[judge]
            others = torch.from_numpy((donor[:, None] == gallery.held) | (person[:, None] == gallery.held))
            distance = _euclidean if judge == "identity" else _cosine
            to_donor, to_own = (distance(seen, each[judge][:, None])[:, 0] for each in (donors, own))
            rest = distance(seen, gallery.embeddings).masked_fill(others, float("inf")).amin(1)
            donor_first, own_first = FIRST[judge]
            values[donor_first] = (to_donor < torch.minimum(to_own, rest)).float().numpy()
            values[own_first] = (to_own < torch.minimum(to_donor, rest)).float().numpy()
            if judge == "identity":
                values |= {"identity_distance": to_donor.numpy(), "identity_own": to_own.numpy()}
        return values

    def kept(self, before: Tensor, after: Tensor) -> Values:
        """What swapped crops uint8 [N, 3, SIDE, SIDE] kept of their photos."""
        values: Values = {"landmarks": self._landmarks(before, after)}
        if self.parser is not None:
            masks = ask(self.parser, before, self.device)
            inner = torch.stack([masks == PARSING_ID[name] for name in FACE]).any(0)
            face = F.max_pool2d(inner[:, None].float(), 2 * WIDER + 1, 1, WIDER)[:, 0] > 0
            change = (after.float() - before.float()).abs().mean(1) / 255
            values["elsewhere"] = ((change * ~face).sum((1, 2)) / (~face).sum((1, 2)).clamp_min(1)).numpy()
        return values

    def _landmarks(self, before: Tensor, after: Tensor) -> np.ndarray:
        found = [self._found(crops) for crops in (before, after)]
        moved = []
        for old, new in zip(*found, strict=True):
            if old is None or new is None:
                moved.append(float("nan") if old is None else float("inf"))
                continue
            eyes = float(np.linalg.norm(old[1] - old[0]))
            moved.append(float(np.linalg.norm(new - old, axis=1).mean()) / max(eyes, 1.0))
        return np.array(moved)

    def _found(self, crops: Tensor) -> list[np.ndarray | None]:
        """The landmarks [5, 2] of the largest face in each crop; None where the detector finds none."""
        results: list[np.ndarray | None] = []
        for found in self.detector.detect(list(crops)):
            boxes = np.asarray(found.boxes)
            if not len(boxes):
                results.append(None)
                continue
            areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            results.append(np.asarray(found.landmarks)[int(areas.argmax())])
        return results


def _euclidean(ours: Tensor, theirs: Tensor) -> Tensor:
    """float [N, D] to [M, D], or to [N, 1, D]: float [N, M]."""
    return torch.cdist(ours[:, None], theirs if theirs.dim() == 3 else theirs[None].expand(len(ours), -1, -1))[:, 0]


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(ours[:, None], theirs if theirs.dim() == 3 else theirs[None], dim=2)
