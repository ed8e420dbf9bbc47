"""Verification measures on embeddings whose values are known by hand; LFW's protocol on faces laid out as LFW is."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.data.shards import shard_name, write_manifest, write_shard
from rayface.errors import RayfaceError
from rayface.evaluation.metrics import RankedScores
from rayface.evaluation.verification import (
    Pairs,
    best_threshold,
    fold_accuracies,
    lfw_notes,
    lfw_report,
    make_pairs,
    over_people,
    photo_auc,
    pixels,
    read_lfw_pairs,
    verification_report,
)
from rayface.imaging.codec import encode
from rayface.records import ATTRIBUTES, FFHQ_TEMPLATE

SIZE = 32


def auc(scores: list[float], same: list[bool], weights: list[float] | None = None) -> float:
    ranked = RankedScores(np.array(scores), np.array(same))
    return ranked.auc(np.array(weights or [1.0] * len(scores)))


def test_auc_by_hand() -> None:
    assert auc([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == 1
    assert auc([0.9, 0.8, 0.2, 0.1], [False, False, True, True]) == 0
    # 3 of the 4 (same, different) pairs are in order
    assert auc([0.9, 0.4, 0.5, 0.1], [True, True, False, False]) == 0.75
    # a tie counts half: (0.5 beats 0.1) + half of (0.5, 0.5), of 2
    assert auc([0.5, 0.5, 0.1], [True, False, False]) == 0.75
    # weight 3 on the pair that is out of order: 3 of 4 by weight
    assert auc([0.9, 0.4, 0.5], [True, True, False], [1, 3, 1]) == 0.25


def test_true_accept_rate_by_hand() -> None:
    different = np.linspace(0, 0.99, 100)  # one of 100 may be accepted: all above 0.98
    same = np.array([0.995, 0.985, 0.5, 0.4])
    ranked = RankedScores(np.concatenate([same, different]), np.arange(104) < 4)
    ones = np.ones(104)
    assert ranked.tar(ones, 0.01) == 0.5
    assert ranked.tar(ones, 0.001) == 0.25
    assert ranked.tar(ones, 1.0) == 1


def test_all_same_pairs_and_twenty_times_as_many_others() -> None:
    people = np.repeat(np.arange(40), [3, *[1] * 39])
    pairs = make_pairs(people)
    assert pairs.same.sum() == 3
    assert len(pairs) == 3 * 21
    assert (pairs.same == (people[pairs.first] == people[pairs.second])).all()
    assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == len(pairs)
    again = make_pairs(people)
    assert (again.first == pairs.first).all()
    assert (make_pairs(people, seed=1).first != pairs.first).any()


def test_pairs_stay_within_a_group() -> None:
    people, group = np.repeat(np.arange(30), 2), np.tile(np.repeat([1, -1, 0], 2), 10)
    pairs = make_pairs(people, group)
    assert pairs.same.sum() == 20  # those of group 0 are in no pair
    assert (group[pairs.first] == group[pairs.second]).all()
    assert (group[pairs.first] != 0).all()


def test_few_faces_give_as_many_different_pairs_as_there_are() -> None:
    pairs = make_pairs(np.array([0, 0, 1]))
    assert sorted(zip(pairs.first, pairs.second, pairs.same, strict=True)) == [
        (0, 1, True),
        (0, 2, False),
        (1, 2, False),
    ]


def test_intervals_are_over_people_not_over_photos() -> None:
    """One person with many photos makes most of the same pairs: the interval must know that it is one person."""
    random = np.random.default_rng(0)
    many = np.concatenate([np.zeros(15, int), np.repeat(np.arange(1, 11), 2)])
    vectors = random.normal(size=(35, 8))
    vectors[:15] += 4 * random.normal(size=8)  # well known again; the others are noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = make_pairs(many)
    ranked = RankedScores(pairs.scores(vectors), pairs.same)
    found = over_people(ranked.auc, pairs, many)
    assert found["people"] == 11
    assert found["low"] < found["value"] <= found["high"]
    # without that person (e^-1 of the draws) the embedding is worthless
    assert found["low"] < 0.75 < 0.9 < found["value"]


def test_a_person_drawn_twice_counts_twice() -> None:
    people = np.repeat(np.arange(6), 2)
    pairs, seen = make_pairs(people), []

    def look(weights: np.ndarray) -> float:
        seen.append(weights)
        return 0.0

    over_people(look, pairs, people, draws=50)
    for weights in seen:
        drawn = {people[a]: weight for a, weight, same in zip(pairs.first, weights, pairs.same, strict=True) if same}
        assert sum(drawn.values()) == 6
        expected = [drawn[people[a]] * drawn[people[b]] for a, b in zip(pairs.first, pairs.second, strict=True)]
        assert (weights == np.where(pairs.same, weights, expected)).all()
    assert max(weights.max() for weights in seen) > 2


def test_best_threshold_and_folds_by_hand() -> None:
    scores, same = np.array([0.1, 0.2, 0.6, 0.8]), np.array([False, False, True, True])
    assert best_threshold(scores, same) == pytest.approx(0.4)
    assert best_threshold(scores, np.array([True] * 4)) < 0.1
    assert best_threshold(scores, np.array([False] * 4)) >= 0.8
    # each fold is judged by the other's threshold: 0.4 from the first, 0.85 from the second
    folds = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    both = np.array([0.1, 0.2, 0.6, 0.8, 0.5, 0.8, 0.9, 1.0])
    assert fold_accuracies(both, np.tile(same, 2), folds).tolist() == [0.5, 0.5]


def write_people(folder: Path, photos: dict[str, int], attributes: dict[str, list[int]] | None = None) -> None:
    """`photos[name]` faces of each person, laid out as LFW's; a person's colour is theirs, with a little noise."""
    random, rows = np.random.default_rng(0), []
    for name, count in photos.items():
        colour = random.uniform(60, 200, (3, 4, 4))
        for number in range(1, count + 1):
            values = np.kron(colour, np.ones((8, 8))) + random.normal(0, 4, (3, SIZE, SIZE))
            rows.append(
                {
                    "id": f"lfw/{name}/{name}_{number:04d}.jpg",
                    "source": "identity",
                    "split": ("train", "validation", "test")[len(rows) % 3] if attributes is None else "test",
                    "identity": name,
                    "image": encode(torch.from_numpy(values.clip(0, 255)).to(torch.uint8), "png"),
                    "size": SIZE,
                    "landmarks": (FFHQ_TEMPLATE * SIZE).ravel().tolist(),
                    "attributes": None if attributes is None else attributes[name],
                }
            )
    write_shard(rows, str(folder / shard_name(0)))
    write_manifest(str(folder), format="identity", size=SIZE)


def noise(crops: Tensor) -> Tensor:
    """An embedding that knows nothing, the same for the same picture."""
    seeds = crops.long().sum((1, 2, 3)).tolist()
    return torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_report_of_a_good_and_a_worthless_embedding(tmp_path: Path) -> None:
    names = [f"Person_{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    males = {name: [1 if a == "Male" and i % 2 else -1 for a in ATTRIBUTES] for i, name in enumerate(names)}
    write_people(tmp_path, dict.fromkeys(names, 3), males)
    report = verification_report(pixels, FaceDataset(tmp_path, "test"), 16, others={"noise": noise})
    assert report["pairs"] == {"same": 78, "different": 1560}
    assert report["auc"]["value"] > 0.999
    assert report["tar_at_far_0.001"]["value"] > 0.99
    assert report["ten_folds"]["accuracy"] > 0.99
    worthless = report["noise"]["auc"]
    assert worthless["low"] < 0.5 < worthless["high"]
    assert worthless["high"] - worthless["low"] < 0.3
    difference = report["noise"]["auc_difference"]
    assert difference["value"] == pytest.approx(report["auc"]["value"] - worthless["value"])
    assert 0.3 < difference["low"] < difference["value"]
    assert {"same_sex", "Male: yes", "Male: no", "Young: no"} <= report["subgroups"].keys()
    assert "Young: yes" not in report["subgroups"]  # nobody is
    assert report["subgroups"]["Male: yes"]["pairs_same"] == 39
    assert report["subgroups"]["Male: yes"]["auc"]["people"] == 13
    assert report["noise"]["tar_at_far_0.01"]["value"] < 0.2 < report["tar_at_far_0.01"]["value"]


def test_each_photo_has_the_share_of_pairs_that_it_beats() -> None:
    """By hand; the mean over same-person pairs is the AUC; photos of no such pair have none."""
    pairs = Pairs(np.array([0, 0, 0, 1]), np.array([1, 2, 3, 3]), np.array([True, True, False, False]))
    scores = np.array([0.9, 0.4, 0.4, 0.1])
    found = photo_auc(scores, pairs, 5)
    assert found[:3].tolist() == [0.875, 1, 0.75]  # 0's pairs beat both, and one and a half
    assert np.isnan(found[3:]).all()
    assert RankedScores(scores, pairs.same).auc(np.ones(4)) == 0.875


def test_people_with_one_photo_each_cannot_be_verified(tmp_path: Path) -> None:
    write_people(tmp_path, {"A": 1, "B": 1, "C": 1})
    with pytest.raises(RayfaceError, match=r"no person of .* is known to be in two of its 3 photos"):
        verification_report(pixels, FaceDataset(tmp_path), 4)


def pairs_file(folds: int, size: int, photos: int = 3) -> str:
    """As LFW's: people F0P0, F0P1 ... of fold 0, and so on; a fold's pairs are among its own people."""
    lines = [f"{folds}\t{size}"]
    for fold in range(folds):
        lines += [f"F{fold}P{i}\t1\t{2 + i % (photos - 1)}" for i in range(size)]
        lines += [f"F{fold}P{i}\t1\tF{fold}P{(i + 1) % size}\t2" for i in range(size)]
    return "\n".join(lines) + "\n"


def test_lfw_protocol_on_people_laid_out_as_lfw(tmp_path: Path) -> None:
    write_people(tmp_path, {f"F{fold}P{i}": 3 for fold in range(10) for i in range(4)})
    dataset = FaceDataset(tmp_path)
    assert lfw_report(pixels, dataset, 16) == {}
    (tmp_path / "pairs.txt").write_text(pairs_file(10, 4))
    good = lfw_report(pixels, dataset, 16)
    assert good == {
        "pairs": 80, "pairs_without_a_face": 0, "pairs_with_train_people": 80, "accuracy": 1.0, "standard_error": 0.0,
    }  # fmt: skip
    bad = lfw_report(noise, dataset, 16)
    assert bad["accuracy"] < 0.7
    assert 0 < bad["standard_error"] < 0.15


def test_what_lfw_cannot_promise_is_said(tmp_path: Path) -> None:
    """All people are of the test split but those of fold 0, whose 8 pairs are among themselves."""
    for folder, attributes in (("a", {f"F{fold}P{i}": [0] * 40 for fold in range(1, 10) for i in range(4)}), ("b", {})):
        names = attributes or {f"F0P{i}": [0] * 40 for i in range(4)}
        write_people(tmp_path / folder, dict.fromkeys(names, 3), attributes or None)
    shutil.move(tmp_path / "b" / shard_name(0), tmp_path / "a" / shard_name(1))
    write_manifest(str(tmp_path / "a"), format="identity", size=SIZE)
    (tmp_path / "a/pairs.txt").write_text(pairs_file(10, 4))
    report = lfw_report(pixels, FaceDataset(tmp_path / "a"), 16)
    assert (report["pairs"], report["pairs_with_train_people"]) == (80, 8)
    (note,) = lfw_notes({"lfw": report})
    assert "8 of its 80 pairs show people of this data's train split" in note
    assert lfw_notes({"auc": 1}) == []


def test_pairs_of_photos_without_a_face_are_counted(tmp_path: Path) -> None:
    write_people(tmp_path, {f"F{fold}P{i}": 3 for fold in range(10) for i in range(4) if (fold, i) != (3, 2)})
    (tmp_path / "pairs.txt").write_text(pairs_file(10, 4))
    report = lfw_report(pixels, FaceDataset(tmp_path), 16)
    assert (report["pairs"], report["pairs_without_a_face"]) == (77, 3)


def test_lfw_pairs_are_read_as_written() -> None:
    pairs = read_lfw_pairs("2 1\nAbel_Pacheco\t1\t4\nAbdel_Madi\t1\tAkhmed\t12\nA 1 2\nA 1 B 1\n")
    assert pairs[:2] == [
        ("Abel_Pacheco_0001", "Abel_Pacheco_0004", True, 0),
        ("Abdel_Madi_0001", "Akhmed_0012", False, 0),
    ]
    assert [fold for *_, fold in pairs] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("10 300\nA 1 2\n", "line 1"),
        ("2 1\nA 1\nA 1 B 1\nA 1 2\nA 1 B 1\n", "line 2: 'A 1' is not 'Name 1 4'"),
        ("2 1\nA 1 2\nA 1 B\nA 1 2\nA 1 B 1\n", "line 3: 'A 1 B' is not 'Name 1 Other 2'"),
    ],
)
def test_a_broken_pairs_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(RayfaceError, match=message):
        read_lfw_pairs(text)


def test_scores_are_cosines() -> None:
    vectors: Any = np.array([[1, 0], [0.6, 0.8], [0, 1]])
    pairs = Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([True, False, False]))
    assert pairs.scores(vectors).tolist() == pytest.approx([0.6, 0, 0.8])
