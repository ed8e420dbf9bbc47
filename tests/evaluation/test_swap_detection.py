"""The report of swap detection, by judges whose answers are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.data.shards import shard_name, write_manifest, write_shard
from rayface.errors import RayfaceError
from rayface.evaluation.subgroups import per_photo_values
from rayface.evaluation.swap_detection import (
    area,
    blend_pairs,
    calibration_error,
    halved,
    jpeg,
    reliability,
    swap_report,
)


@pytest.fixture(scope="module")
def swap_set(drawn_faces: str, tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    """20 real drawn faces, 8 dark ones that are swaps, 4 that were retouched."""
    folder, source = tmp_path_factory.mktemp("swaps"), FaceDataset(drawn_faces, "train")
    columns = ("id", "source", "split", "identity", "image", "landmarks", "mask", "attributes")
    rows = []
    for index, row in enumerate(source.records(range(32), columns)):
        method, model = ("face_swap", None) if index < 8 else (None, "enhancement@r3") if index < 12 else (None, None)
        rows.append({**row, "size": 64, "swap_method": method, "retouched_by": model})
    rows.append({**rows[0], "id": "blend", "swap_method": "blend"})  # not looked at: the report makes its own
    write_shard(rows, str(folder / shard_name(0)))
    write_manifest(str(folder), format="swaps", size=64)
    return FaceDataset(folder)


class Knowing:
    """Knows which pictures are real: those that it was shown."""

    def __init__(self, real: Tensor) -> None:
        self.real = real.float()

    def __call__(self, crops: Tensor) -> Tensor:
        nearest = (crops.float()[:, None] - self.real).abs().mean((2, 3, 4)).amin(1)
        return (nearest / (nearest + 3)).clamp(0.01, 0.99)


def test_a_judge_that_knows_real_photos_finds_every_method(swap_set: FaceDataset) -> None:
    real = swap_set.batch(range(8, 32))["image"]
    assert isinstance(real, Tensor)
    with per_photo_values() as values:
        report = swap_report(Knowing(real), swap_set, 8)
    assert report["real_photos"] == 20
    assert set(report["own"]) == {"face_swap"}
    assert report["own"]["face_swap"]["swaps"] == 8
    assert report["own"]["face_swap"]["auc"]["value"] == 1
    blends = report["unseen"]["blend"]
    assert blends["swaps"] == 20
    assert blends["auc"]["value"] > 0.9
    assert {"auc_jpeg70", "auc_half", "baseline_auc", "found", "calibration_error"} < blends.keys()
    assert set(report["reliability"]) == {"face_swap", "blend"}
    assert report["false_alarms"]["real"]["value"] == 0
    assert report["false_alarms"]["enhancement@r3"]["photos"] == 4
    assert set(report["false_alarms"]) == {"real", "real_jpeg70", "real_half", "enhancement@r3"}
    assert np.isnan(values["false_alarms"][:12]).all()
    assert (values["false_alarms"][12:32] == 0).all()
    assert np.isfinite(values["blends_found"][12:32]).all()


def test_a_judge_that_guesses_is_shown_as_one(swap_set: FaceDataset) -> None:
    report = swap_report(lambda crops: torch.full((len(crops),), 0.5), swap_set, 8, limit=10)
    assert report["real_photos"] == 10
    assert report["own"]["face_swap"]["auc"]["value"] == 0.5
    assert report["unseen"]["blend"]["calibration_error"]["value"] == pytest.approx(0)
    assert report["false_alarms"]["real"]["value"] == 1, "0.5 counts as swapped"


def test_pairs_are_of_different_people_and_the_same_every_time() -> None:
    people = ["a", "a", "b", None, "c", None]
    pairs = blend_pairs(range(6), people)
    assert [texture for texture, _ in pairs] == list(range(6))
    for texture, donor in pairs:
        assert texture != donor
        assert people[texture] is None or people[texture] != people[donor]
    assert pairs == blend_pairs(range(6), people)
    with pytest.raises(RayfaceError, match="of one person"):
        blend_pairs([0, 1], people)


def test_plain_faces_are_all_real(drawn_faces: str) -> None:
    report = swap_report(lambda crops: crops.float().mean((1, 2, 3)) / 255, FaceDataset(drawn_faces, "train"), 8, 12)
    assert report["own"] == {}
    assert report["unseen"]["blend"]["swaps"] == 12


def test_calibration_error_by_hand() -> None:
    probabilities, swapped = np.array([0.9, 0.9, 0.1, 0.1]), np.array([1.0, 1.0, 0.0, 0.0])
    assert calibration_error(probabilities, swapped)["value"] == pytest.approx(0.1)
    assert calibration_error(1 - probabilities, swapped)["value"] == pytest.approx(0.9)
    # 30 real faces for each fake do not drown it
    many = np.concatenate([[0.9], np.full(30, 0.1)]), np.concatenate([[0.0], np.ones(30)])
    assert calibration_error(*many)["value"] == pytest.approx(0.9)
    table = reliability(np.array([0.95, 0.95, 0.05, 1.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert table["0.9 to 1.0"]["faces"] == 3
    assert table["0.0 to 0.1"] == {"faces": 1, "probability": pytest.approx(0.05), "swapped": 0}


def test_area_by_hand() -> None:
    assert area(np.array([0.9, 0.4]), np.array([0.1, 0.5]))["value"] == pytest.approx(0.75)


def test_conditions_keep_the_picture(drawn_faces: str) -> None:
    crops = FaceDataset(drawn_faces).batch(range(3))["image"]
    assert isinstance(crops, Tensor)
    for changed in (jpeg(crops, 70), halved(crops)):
        assert changed.shape == crops.shape
        assert changed.dtype == torch.uint8
        assert 0.5 < (changed.float() - crops.float()).abs().mean() < 10
