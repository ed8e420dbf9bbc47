"""How well embeddings tell whether two photos show the same person (SPEC E5).

Pairs: every same-person pair of a split and 20 times as many pairs of different people, drawn with a fixed seed. Photos
of one person are not independent, so intervals are bootstrapped over *people*: a person drawn twice counts twice, with
all their pairs. Who has LFW (ingested with `--format identity`) puts its `pairs.txt` beside `dataset.json` and gets
LFW's own protocol too (Huang et al., "Labeled Faces in the Wild", 2007): 10 folds, the threshold from the other nine.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from rayface.errors import RayfaceError
from rayface.evaluation.metrics import RankedScores, weighted_bootstrap
from rayface.evaluation.subgroups import group_masks, record
from rayface.records import ATTRIBUTE_ID
from rayface.storage import open_filesystem

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

Embed = Callable[[Tensor], Tensor]

DIFFERENT_PER_SAME = 20
FALSE_ACCEPT_RATES = (1e-2, 1e-3)
FOLDS = 10
FEWEST_PAIRS = 10  # same-person pairs that a subgroup must have to be reported
LFW_PAIRS = "pairs.txt"


@dataclass(frozen=True)
class Pairs:
    """Pairs of faces: `first`, `second` are int64 [P] indices of faces, `same` bool [P]."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

    def __len__(self) -> int:
        return len(self.same)

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine of each pair, float [P], of embeddings [N, D] of unit length."""
        return (embeddings[self.first] * embeddings[self.second]).sum(1)


def make_pairs(people: np.ndarray, group: np.ndarray | None = None, seed: int = 0) -> Pairs:
    """All same-person pairs and `DIFFERENT_PER_SAME` times as many others (fewer where there are not so many).

    `people`: int [N], who each face is. `group`: int [N]; where given, both faces of every pair are of the same group,
    and faces of group 0 (unknown) are in none. There may be no pairs.
    """
    group = np.ones(len(people), np.int64) if group is None else group
    faces_of = defaultdict(list)
    for face in np.flatnonzero(group):
        faces_of[people[face], group[face]].append(face)
    same = [pair for faces in faces_of.values() for pair in combinations(faces, 2)]
    wanted = DIFFERENT_PER_SAME * len(same)
    known = np.flatnonzero(group)
    random = np.random.default_rng(seed)
    different: dict[tuple[int, int], None] = {}
    for _ in range(100):  # a small or lopsided set has fewer pairs than wanted
        if len(different) >= wanted:
            break
        for a, b in np.sort(random.choice(known, (2 * wanted, 2)), axis=1).tolist():
            if people[a] != people[b] and group[a] == group[b]:
                different[a, b] = None
    both = np.array([*same, *list(different)[:wanted]], np.int64).reshape(-1, 2)
    return Pairs(both[:, 0], both[:, 1], np.arange(len(both)) < len(same))


def over_people(
    statistic: Callable[[np.ndarray], float], pairs: Pairs, people: np.ndarray, draws: int = 1000
) -> dict[str, Any]:
    """`{value, low, high, people}` of a statistic of pair weights [P]: 95 % bootstrap interval over people.

    Only people of the pairs are drawn. In a draw a same-person pair weighs as often as its person was drawn, a
    different pair the product of both counts.
    """
    held, index = np.unique(people[np.concatenate([pairs.first, pairs.second])], return_inverse=True)
    first, second = np.split(index, 2)

    def of_people(count: np.ndarray) -> float:
        weights = np.where(pairs.same, count[first], count[first] * count[second])
        return statistic(weights) if weights[pairs.same].any() and weights[~pairs.same].any() else np.nan

    return weighted_bootstrap(of_people, len(held), draws, "people")


def photo_auc(scores: np.ndarray, pairs: Pairs, photos: int) -> np.ndarray:
    """How often a photo's same-person pairs score above a pair of different people (ties half), float [photos].

    NaN for photos that are in no same-person pair. The mean over same-person pairs is the AUC.
    """
    different = np.sort(scores[~pairs.same])
    own = scores[pairs.same]
    above = (np.searchsorted(different, own, "left") + np.searchsorted(different, own, "right")) / 2 / len(different)
    faces = np.concatenate([pairs.first[pairs.same], pairs.second[pairs.same]])
    sums, counts = (np.bincount(faces, values, photos) for values in (np.tile(above, 2), np.ones(len(faces))))
    return np.divide(sums, counts, out=np.full(photos, np.nan), where=counts > 0)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold ("same" above it) that judges most pairs right, halfway between two scores."""
    values, place = np.unique(scores, return_inverse=True)
    gain = np.bincount(place, np.where(same, -1, 1), len(values)).cumsum()  # of refusing everything up to a score
    best = int(np.argmax(gain))
    if gain[best] <= 0:
        return float(values[0]) - 1e-6
    return float(values[best] + values[min(best + 1, len(values) - 1)]) / 2


def fold_accuracies(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Accuracy on each fold (int [P] per pair) with the threshold that is best on all others."""
    accuracies = []
    for fold in np.unique(folds):
        held_out = folds == fold
        threshold = best_threshold(scores[~held_out], same[~held_out])
        accuracies.append(((scores[held_out] > threshold) == same[held_out]).mean())
    return np.array(accuracies)


def fold_report(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> dict[str, float]:
    """Mean accuracy over folds and its standard error, as LFW reports them."""
    accuracies = fold_accuracies(scores, same, folds)
    return {
        "accuracy": float(accuracies.mean()),
        "standard_error": float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
    }


def _balanced(pairs: Pairs) -> np.ndarray:
    """Indices of all same pairs and as many different ones: accuracy means nothing on 20 to 1."""
    same, different = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
    return np.concatenate([same, different[: len(same)]])


def embed_faces(embed: Embed, dataset: "FaceDataset", faces: Sequence[int], batch: int) -> np.ndarray:
    """float32 [len(faces), D] of unit length; `embed` maps crops uint8 [N, 3, S, S] to [N, D]."""
    parts = []
    for start in range(0, len(faces), batch):
        images = dataset.batch(faces[start : start + batch], ("image",))["image"]
        assert isinstance(images, Tensor)
        parts.append(F.normalize(embed(images).float().cpu(), dim=1).numpy())
    return np.concatenate(parts)


def pixels(crops: Tensor) -> Tensor:
    """The baseline: uint8 [N, 3, S, S] -> the crop at 32 px less its mean colour, [N, 3072]."""
    small = F.interpolate(crops.float(), (32, 32), mode="bilinear", antialias=True)
    return (small - small.mean((2, 3), keepdim=True)).flatten(1)


def verification_report(
    embed: Embed,
    dataset: "FaceDataset",
    batch: int,
    limit: int | None = None,
    others: Mapping[str, Embed] | None = None,
) -> dict[str, Any]:
    """AUC, true accept rates and accuracy of an embedding on a split, with intervals over people.

    `embed` maps crops uint8 [N, 3, S, S] to [N, D]. `others`: embeddings measured on the same pairs, each with
    the difference of our AUC to its own. Faces of unknown people are left out. Raises RayfaceError when
    there are no two photos of one person.
    """
    total = min(len(dataset), limit or len(dataset))
    faces = [face for face in range(total) if dataset.identities[face] is not None]
    _, people = np.unique([str(dataset.identities[face]) for face in faces], return_inverse=True)
    pairs = make_pairs(people)
    if not pairs.same.any() or pairs.same.all():
        raise RayfaceError(
            f"no person of {dataset.path} (split {dataset.split}) is known to be in two of its {total} photos, or no "
            "other person is; verification needs both: ingest with --format identity, with CelebA's identity labels, "
            "or draw faces (`rayface data synth`)",
            kind="missing-column",
        )
    ours = embed_faces(embed, dataset, faces, batch)
    report = _measures(ours, pairs, people)
    per_photo = np.full(total, np.nan)
    per_photo[faces] = photo_auc(pairs.scores(ours), pairs, len(faces))
    record("photo_auc", per_photo)
    report["subgroups"] = _subgroups(ours, people, dataset, faces)
    ranked = RankedScores(pairs.scores(ours), pairs.same)
    for name, other in (others or {}).items():
        theirs = RankedScores(pairs.scores(embed_faces(other, dataset, faces, batch)), pairs.same)
        report[name] = {
            **_ranking(theirs, pairs, people),
            "auc_difference": over_people(_difference(ranked, theirs), pairs, people),
        }
    return report


def _difference(ours: RankedScores, theirs: RankedScores) -> Callable[[np.ndarray], float]:
    return lambda weights: ours.auc(weights) - theirs.auc(weights)


def _ranking(ranked: RankedScores, pairs: Pairs, people: np.ndarray) -> dict[str, Any]:
    report = {"auc": over_people(ranked.auc, pairs, people)}
    for far in FALSE_ACCEPT_RATES:
        report[f"tar_at_far_{far:g}"] = over_people(partial(ranked.tar, far=far), pairs, people)
    return report


def _measures(embeddings: np.ndarray, pairs: Pairs, people: np.ndarray) -> dict[str, Any]:
    scores = pairs.scores(embeddings)
    report = _ranking(RankedScores(scores, pairs.same), pairs, people)
    chosen = _balanced(pairs)
    # one person's pairs stay in one fold, by the first face
    folds = np.random.default_rng(0).permutation(people.max() + 1)[people[pairs.first[chosen]]] % FOLDS
    if len(np.unique(folds)) > 1:
        report["ten_folds"] = fold_report(scores[chosen], pairs.same[chosen], folds)
    report["pairs"] = {"same": int(pairs.same.sum()), "different": int((~pairs.same).sum())}
    return report


def _subgroups(
    embeddings: np.ndarray, people: np.ndarray, dataset: "FaceDataset", faces: Sequence[int]
) -> dict[str, Any]:
    """AUC among faces that share an attribute, and over pairs of the same sex (harder); nothing without labels."""
    labels = dataset.batch(faces, ("attributes",))["attributes"]
    assert isinstance(labels, Tensor)
    attributes = labels.numpy()
    groups = {"same_sex": attributes[:, ATTRIBUTE_ID["Male"]], **group_masks(attributes)}
    report = {}
    for name, group in groups.items():
        pairs = make_pairs(people, group)
        if pairs.same.sum() >= FEWEST_PAIRS and not pairs.same.all():
            auc = over_people(RankedScores(pairs.scores(embeddings), pairs.same).auc, pairs, people, draws=300)
            report[name] = {"auc": auc, "pairs_same": int(pairs.same.sum())}
    return report


def lfw_report(embed: Embed, dataset: "FaceDataset", batch: int) -> dict[str, Any]:
    """LFW's protocol where `pairs.txt` lies beside `dataset.json`; empty where it does not.

    `dataset` holds all splits. Pairs of which a photo was not ingested (no face found) are left out and counted, those
    that show people of the train split are counted: see `lfw_notes`.
    """
    filesystem, folder = open_filesystem(dataset.path)
    try:
        with filesystem.open_input_stream(f"{folder}/{LFW_PAIRS}") as stream:
            listed = read_lfw_pairs(stream.read().decode())
    except FileNotFoundError:
        return {}
    face_of = {PurePosixPath(face_id).stem: index for index, face_id in enumerate(dataset.ids)}
    found = [pair for pair in listed if pair[0] in face_of and pair[1] in face_of]
    report: dict[str, Any] = {"pairs": len(found), "pairs_without_a_face": len(listed) - len(found)}
    if len({fold for *_, fold in found}) < 2:
        raise RayfaceError(f"{folder}/{LFW_PAIRS}: of its {len(listed)} pairs {len(found)} are in the dataset")
    faces = sorted({face_of[name] for a, b, *_ in found for name in (a, b)})
    place = {face: index for index, face in enumerate(faces)}
    first = np.array([place[face_of[one]] for one, *_ in found])
    second = np.array([place[face_of[other]] for _, other, *_ in found])
    same, folds = np.array([pair[2] for pair in found]), np.array([pair[3] for pair in found])
    seen = _train_people(dataset)
    learnt = np.array([dataset.identities[face] in seen for face in faces])
    report["pairs_with_train_people"] = int((learnt[first] | learnt[second]).sum())
    scores = Pairs(first, second, same).scores(embed_faces(embed, dataset, faces, batch))
    return report | fold_report(scores, same, folds)


def _train_people(dataset: "FaceDataset") -> set[str]:
    """Names of those in the train split of the same data; none where it has no such split."""
    from rayface.data.dataset import FaceDataset

    try:
        return set(FaceDataset(dataset.path, "train").people)
    except RayfaceError:
        return set()


def lfw_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What a recognition report with LFW's protocol cannot promise; nothing for other metrics."""
    if "lfw" not in metrics:
        return []
    lfw = metrics["lfw"]
    return [
        f"LFW: {lfw['pairs_with_train_people']} of its {lfw['pairs']} pairs show people of this data's train split; a "
        "model trained on it has seen them. Whether the model, its teacher or a baseline learned from other photos of "
        "LFW's people is not known: no model keeps the names of those that it was trained on"
    ]


def read_lfw_pairs(text: str) -> list[tuple[str, str, bool, int]]:
    """(photo, photo, same person, fold) of LFW's pairs.txt: "10 300", then per fold same pairs and different ones.

    A same pair is "Name 1 4", a different one "Name 1 Other_Name 2". Raises RayfaceError naming the line.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    try:
        folds, size = (int(value) for value in lines[0])
        if folds < 2 or size < 1 or len(lines) != 1 + folds * 2 * size:
            raise ValueError
    except (ValueError, IndexError):
        raise RayfaceError(f"{LFW_PAIRS}: line 1 must say folds and pairs (10 300), and so many pairs follow") from None
    pairs = []
    for number, words in enumerate(lines[1:]):
        fold, place = divmod(number, 2 * size)
        same = place < size
        try:
            one, first, other, second = [words[0], words[1], words[0], words[2]] if same else words
            if len(words) != (3 if same else 4):
                raise ValueError
            pairs.append((f"{one}_{int(first):04d}", f"{other}_{int(second):04d}", same, fold))
        except (ValueError, IndexError):
            kind = "Name 1 4" if same else "Name 1 Other 2"
            raise RayfaceError(f"{LFW_PAIRS}: line {number + 2}: {' '.join(words)!r} is not {kind!r}") from None
    return pairs
