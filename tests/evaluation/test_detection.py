"""How detection is measured: errors by hand, scenes that keep their face, the report of the released detector."""

import numpy as np
import pytest
import torch

from rayface.data.dataset import FaceDataset
from rayface.detector import Faces, load_detector
from rayface.evaluation.detection import detection_report, detection_summary, face_error, scene
from rayface.randomness import generator
from rayface.records import FFHQ_TEMPLATE

LABELS = FFHQ_TEMPLATE * 100


def faces_at(*shifts: float) -> Faces:
    """Detections whose landmarks lie `shift` eye distances to the right of the labels."""
    eyes = float(np.linalg.norm(LABELS[0] - LABELS[1]))
    points = torch.tensor(LABELS) + torch.tensor([[[shift * eyes, 0]] for shift in shifts]).reshape(-1, 1, 2)
    return Faces(torch.zeros(len(points), 4), points, torch.ones(len(points)))


def test_the_nearest_detection_counts() -> None:
    assert face_error(faces_at(2.0, 0.1, 0.3), LABELS) == pytest.approx(0.1, abs=1e-5)
    assert face_error(faces_at(), LABELS) == np.inf


def test_the_summary_by_hand() -> None:
    summary = detection_summary(np.array([0.1, 0.3, 0.7, np.inf]), np.array([1, 3, 1, 0]))
    assert summary["found_percent"]["value"] == 50
    assert summary["median_error_percent"]["value"] == pytest.approx(20)
    assert summary["others_per_photo"]["value"] == pytest.approx(3 / 4)  # two beside a face, one far from it
    nothing = detection_summary(np.array([np.inf, np.inf]), np.array([0, 0]))
    assert nothing["found_percent"]["value"] == 0
    assert "median_error_percent" not in nothing


def test_a_scene_keeps_the_face_and_moves_its_landmarks() -> None:
    crop = torch.zeros(3, 64, 64, dtype=torch.uint8)
    crop[0, 20:24, 30:34] = 255  # a red spot around (31.5, 21.5)
    other = torch.zeros(3, 64, 64, dtype=torch.uint8)
    other[2] = torch.arange(64, dtype=torch.uint8)  # blue only
    for index in range(6):
        picture, points = scene(crop, other, torch.tensor([[31.5, 21.5]]), generator(1, 0, index))
        assert picture.shape == crop.shape
        weight = picture[0].double()
        x = float((weight.sum(0) * torch.arange(64)).sum() / weight.sum())
        y = float((weight.sum(1) * torch.arange(64)).sum() / weight.sum())
        assert points[0].tolist() == pytest.approx([x, y], abs=0.15)


def test_the_released_detector_finds_drawn_faces(drawn_faces: str) -> None:
    release = load_detector()
    report = detection_report({"model": release, "release": release}, FaceDataset(drawn_faces, None, 64), 16, 24)
    for kind in ("crops", "scenes"):
        model = dict(report[kind]["model"])
        assert model.pop("error_change_percent")["value"] == 0
        assert model == report[kind]["release"]
    assert report["crops"]["release"]["found_percent"]["value"] > 90
    assert report["scenes"]["release"]["found_percent"]["value"] > 40
    assert report["scenes"]["release"]["found_percent"]["photos"] == 24
