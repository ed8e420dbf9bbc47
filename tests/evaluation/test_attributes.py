"""Measures of attributes against values worked out by hand or by plain loops."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.attributes import (
    attribute_report,
    calibration_error,
    majority_guess,
    share,
    summary,
)
from rayface.evaluation.metrics import area_under_curve, weighted_bootstrap
from rayface.records import ATTRIBUTE_ID, ATTRIBUTES

ONES = np.ones


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ((0.1, 0.2, 0.8, 0.9), (-1, -1, 1, 1), 1.0),
        ((0.9, 0.8, 0.2, 0.1), (-1, -1, 1, 1), 0.0),
        ((0.1, 0.4, 0.35, 0.8), (-1, -1, 1, 1), 0.75),  # one of four pairs is the wrong way round
        ((0.5, 0.5, 0.5, 0.5), (-1, -1, 1, 1), 0.5),  # ties count half
        ((0.1, 0.5, 0.5, 0.9), (-1, -1, 1, 1), 0.875),
        ((0.1, 0.99, 0.2, 0.8), (-1, 0, -1, 1), 1.0),  # unknown is left out
    ],
)
def test_auc_by_hand(scores: tuple, labels: tuple, expected: float) -> None:
    found = area_under_curve(column(*scores), column(*labels).astype(int))(ONES(4))
    assert found == pytest.approx([expected])


def test_auc_without_a_class_is_not_a_number() -> None:
    assert np.isnan(area_under_curve(column(0.1, 0.9), column(1, 1).astype(int))(ONES(2))).all()


def test_weighted_auc_is_that_of_repeated_photos() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, (30, 3)) / 5  # many ties
    labels = random.choice([-1, 0, 1], (30, 3))
    weights = random.integers(0, 4, 30)
    repeated = np.repeat(np.arange(30), weights)
    again = area_under_curve(scores[repeated], labels[repeated])(ONES(len(repeated)))
    assert area_under_curve(scores, labels)(weights) == pytest.approx(again)
    for a in range(3):  # against the definition: the share of pairs in the right order
        yes, no = (scores[repeated, a][labels[repeated, a] == sign] for sign in (1, -1))
        pairs = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
        assert again[a] == pytest.approx(pairs.mean())


def test_calibration_error_by_hand() -> None:
    # one bin: 4 photos at 0.9, of which 3 are positive: |0.9 - 0.75|; another: 2 at 0.1, none positive: 0.1
    probabilities = column(0.9, 0.9, 0.9, 0.9, 0.1, 0.1)
    labels = column(1, 1, 1, -1, -1, -1).astype(int)
    statistic = calibration_error(probabilities, labels)
    assert statistic(ONES(6)) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert statistic(np.array([1, 1, 1, 0, 0, 0])) == pytest.approx(0.1)
    certain = calibration_error(column(1.0, 0.0), column(1, -1).astype(int))
    assert certain(ONES(2)) == 0


def test_share_counts_what_is_known() -> None:
    hits, counted = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), np.array([[1, 1], [1, 0], [0, 1]], bool)
    assert share(hits, counted)(ONES(3)) == pytest.approx([0.5, 0.5])
    assert share(hits, counted)(np.array([3, 1, 1])) == pytest.approx([0.75, 0.25])


def test_intervals_hold_the_value_and_narrow_with_photos() -> None:
    random = np.random.default_rng(0)
    widths = []
    for photos in (50, 800):
        hits = (random.random((photos, 1)) < 0.7).astype(float)
        (entry,) = weighted_bootstrap(share(hits, np.ones_like(hits, bool)), photos)
        assert entry["value"] == pytest.approx(hits.mean())
        assert entry["low"] < entry["value"] < entry["high"]
        widths.append(entry["high"] - entry["low"])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


def made_up(photos: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: every attribute is told with noise, but Bald has 2 positives."""
    random = np.random.default_rng(3)
    labels = np.where(random.random((photos, 40)) < 0.3, 1, -1)
    labels[:, ATTRIBUTE_ID["Bald"]] = -1
    labels[:2, ATTRIBUTE_ID["Bald"]] = 1
    logits = 2 * labels + random.normal(0, 2, labels.shape)
    return 1 / (1 + np.exp(-logits)), labels


def test_summary_sets_rare_attributes_apart_and_compares_with_the_majority() -> None:
    probabilities, labels = made_up()
    report = summary(probabilities, labels, np.full(40, -1))
    assert list(report["rare_attributes"]) == ["Bald"]
    assert "auc" not in report["rare_attributes"]["Bald"]
    assert report["macro_auc_attributes"] == 39
    aucs = [entry["auc"]["value"] for entry in report["attributes"].values()]
    assert report["macro_auc"]["value"] == pytest.approx(np.mean(aucs))
    correct = (probabilities >= 0.5) == (labels > 0)
    assert report["mean_accuracy"]["value"] == pytest.approx(correct.mean())
    assert report["majority_accuracy"]["value"] == pytest.approx((labels < 0).mean())
    gain = report["gain_over_majority"]
    assert gain["value"] == pytest.approx(correct.mean() - (labels < 0).mean())
    assert gain["low"] < gain["value"] < gain["high"]
    assert report["brier"]["value"] == pytest.approx(((probabilities - (labels > 0)) ** 2).mean())


def test_balanced_accuracy_sees_through_the_majority_guess() -> None:
    _, labels = made_up()
    report = summary(np.zeros(labels.shape), labels, np.full(40, -1))
    smiling = report["attributes"]["Smiling"]
    assert smiling["accuracy"]["value"] > 0.6
    assert smiling["balanced_accuracy"]["value"] == 0.5
    assert smiling["auc"]["value"] == 0.5
    assert report["gain_over_majority"]["value"] == 0


def test_subgroups_leave_their_own_attribute_out() -> None:
    _, labels = made_up()
    male = ATTRIBUTE_ID["Male"]
    probabilities = (labels > 0).astype(float)
    probabilities[:, male] = 1 - probabilities[:, male]  # always wrong about Male, else right
    groups = summary(probabilities, labels, None)["subgroups"]
    assert groups["Male"]["yes"] == {"value": 1, "low": 1, "high": 1, "photos": int((labels[:, male] > 0).sum())}
    assert groups["Young"]["no"]["value"] == pytest.approx(38 / 39)


def test_the_majority_is_the_train_splits(drawn_faces: str) -> None:
    train = FaceDataset(drawn_faces, "train")
    labels = train.batch(range(len(train)), ("attributes",))["attributes"]
    assert isinstance(labels, torch.Tensor)
    majority = majority_guess(FaceDataset(drawn_faces, "test"))
    assert majority is not None
    for a in range(40):
        yes, no = int((labels[:, a] == 1).sum()), int((labels[:, a] == -1).sum())
        assert majority[a] == (1 if yes > no else -1)


def test_report_of_a_dataset(drawn_faces: str) -> None:
    """A classifier that knows the labels is right everywhere; batches and the limit change nothing else."""
    dataset = FaceDataset(drawn_faces)
    labels = dataset.batch(range(len(dataset)), ("attributes",))["attributes"]
    assert isinstance(labels, torch.Tensor)
    shown: list[int] = []

    def oracle(images: torch.Tensor) -> torch.Tensor:
        first = sum(shown)
        shown.append(len(images))
        return (labels[first : first + len(images)] > 0).float()

    report: dict[str, Any] = attribute_report(oracle, dataset, batch=7, limit=30)
    assert shown == [7, 7, 7, 7, 2]
    assert report["mean_accuracy"] == {"value": 1, "low": 1, "high": 1, "photos": 30}
    assert set(report["attributes"]) | set(report["rare_attributes"]) <= set(ATTRIBUTES)
    assert report["gain_over_majority"]["value"] > 0


def test_without_a_train_split_there_is_no_baseline() -> None:
    nowhere = SimpleNamespace(path="no/such/folder")
    assert majority_guess(nowhere) is None  # type: ignore[arg-type]
    probabilities, labels = made_up()
    assert "majority_accuracy" not in summary(probabilities, labels, None)
