"""The detector: finds drawn faces, does not depend on the batch, and refuses what is no photo."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rayface import detector as module
from rayface.data.synth import DrawnScene, draw_scene
from rayface.detector import Detector, DetectorConfig, Faces, load_detector, newest_release
from rayface.errors import RayfaceError
from rayface.networks.mtcnn import Mtcnn
from rayface.store import ModelStore


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector()


@pytest.fixture(scope="module")
def scenes() -> list[DrawnScene]:
    return [draw_scene(0, index) for index in range(8)]


def errors(faces: Faces, landmarks: Tensor) -> Tensor:
    """For each labelled face the nearest detection's mean point distance over the eye distance."""
    if not len(faces):
        return torch.full((len(landmarks),), torch.inf)
    eyes = (landmarks[:, 0] - landmarks[:, 1]).norm(dim=1)
    distance = (faces.landmarks[:, None] - landmarks[None]).norm(dim=3).mean(2)
    return distance.min(0).values / eyes


def test_drawn_faces_are_found(detector: Detector, scenes: list[DrawnScene]) -> None:
    found = detector.detect([scene.photo for scene in scenes])
    measured = torch.cat([errors(f, s.landmarks) for f, s in zip(found, scenes, strict=True)])
    hits = measured < 0.25
    assert float(hits.float().mean()) >= 0.8
    assert float(measured[hits].median()) < 0.1
    assert sum(map(len, found)) <= len(measured) + 2  # hardly anything else is taken for a face
    for faces in found:
        assert faces.scores.tolist() == sorted(faces.scores.tolist(), reverse=True)
        assert faces.boxes.shape == (len(faces), 4)
        assert faces.landmarks.shape == (len(faces), 5, 2)
        inside = (faces.landmarks >= faces.boxes[:, None, :2]) & (faces.landmarks <= faces.boxes[:, None, 2:])
        assert float(inside.float().mean()) > 0.95


def test_faces_do_not_depend_on_the_batch(detector: Detector, scenes: list[DrawnScene]) -> None:
    photos = [scene.photo for scene in scenes[:4]] + [scenes[4].photo[:, :400, :500]]
    together = detector.detect([*photos, photos[0]])
    for photo, batched in zip([*photos, photos[0]], together, strict=True):
        alone = detector.detect([photo])[0]
        assert len(alone) == len(batched) > 0
        assert torch.allclose(alone.boxes, batched.boxes, atol=1e-3)
        assert torch.allclose(alone.landmarks, batched.landmarks, atol=1e-3)
        assert torch.allclose(alone.scores, batched.scores, atol=1e-5)


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_large_photos_are_searched_reduced(detector: Detector, scenes: list[DrawnScene], factor: float) -> None:
    scene = scenes[1]
    large = functional.interpolate(scene.photo[None], scale_factor=factor, mode="bilinear")[0]
    landmarks = (scene.landmarks + 0.5) * factor - 0.5
    assert float(errors(detector.detect([large])[0], landmarks).median()) < 0.1


def test_padding_moves_nothing(detector: Detector, scenes: list[DrawnScene]) -> None:
    scene = scenes[1]
    plain, padded = (detector.detect([scene.photo], pad=pad)[0] for pad in (0.0, 0.2))
    assert float(errors(padded, plain.landmarks).median()) < 0.1  # the margin itself would be twenty times that


def test_padding_finds_a_face_cut_close(detector: Detector, scenes: list[DrawnScene]) -> None:
    scene = scenes[1]
    points = scene.landmarks[0]
    unit = float((points[0] - points[1]).norm())
    x0, y0 = (int(v) for v in points.amin(0) - 0.35 * unit)
    x1, y1 = (int(v) for v in points.amax(0) + 0.35 * unit)
    tight = scene.photo[:, max(0, y0) : y1, max(0, x0) : x1]
    tight = functional.interpolate(tight[None], scale_factor=2.0, mode="bilinear")[0]
    assert len(detector.detect([tight], pad=0.5)[0]) == 1


def test_nothing_is_found_in_nothing(detector: Detector) -> None:
    flat = torch.full((3, 120, 160), 128, dtype=torch.uint8)
    sliver = torch.zeros(3, 5, 300, dtype=torch.uint8)
    pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
    for faces in detector.detect([flat, sliver, pixel]):
        assert len(faces) == 0
        assert faces.landmarks.shape == (0, 5, 2)
    assert detector.detect([]) == []


@pytest.mark.parametrize("photo", [torch.zeros(3, 40, 40), torch.zeros(1, 40, 40, dtype=torch.uint8)])
def test_what_is_no_photo_is_refused(detector: Detector, photo: Tensor) -> None:
    with pytest.raises(RayfaceError, match=r"uint8 \[3, H, W\]"):
        detector.detect([photo])


def test_settings_are_checked() -> None:
    with pytest.raises(RayfaceError, match="min_face 4"):
        DetectorConfig(min_face=4)


def test_a_changed_or_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match=r"config\.json is missing"):
        load_detector(tmp_path)
    copy = tmp_path / "1"
    release = newest_release()
    shutil.copytree(release, copy)
    assert load_detector(copy).model == f"detection@{release.name}"
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(RayfaceError, match="sha256"):
        load_detector(copy)
    info = json.loads((release / "config.json").read_text())
    info["schema"]["rayface.landmarks"] = "[]"
    shutil.copy(release / "model.safetensors", copy)
    (copy / "config.json").write_text(json.dumps(info))
    with pytest.raises(RayfaceError, match=r"rayface\.landmarks"):
        load_detector(copy)


def test_the_newest_release_is_taken_as_the_store_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = json.loads((newest_release() / "config.json").read_text())
    for version in ("r2", "r10"):
        folder = shutil.copytree(newest_release(), tmp_path / "detection" / version)
        (folder / "config.json").write_text(json.dumps(info | {"version": version}))
    (tmp_path / "detection/r11").mkdir()  # unfinished: config.json is written last
    monkeypatch.setattr(module, "RELEASES", tmp_path / "detection")
    assert load_detector().model == ModelStore(tmp_path).load("detection").ref == "detection@r10"
    assert load_detector(tmp_path / "detection/r2").model == "detection@r2"


def test_the_networks_learn() -> None:
    torch.manual_seed(0)
    networks = Mtcnn()
    x, labels = torch.rand(16, 3, 48, 48) * 2 - 1, torch.arange(16) % 2
    x[labels == 1] += 0.5
    losses = []
    for _ in range(30):
        logits = [
            networks.proposal(functional.interpolate(x, 12, mode="area"))[0][:, 0, 0],
            networks.refinement(functional.interpolate(x, 24, mode="area"))[0],
            networks.output(x)[0],
        ]
        targets = labels.float().expand(3, -1)
        loss = 3 * functional.binary_cross_entropy_with_logits(torch.stack(logits), targets)
        networks.zero_grad()
        loss.backward()
        with torch.no_grad():  # plain descent: torch.optim costs seconds of import
            for parameter in networks.parameters():
                if parameter.grad is not None:
                    parameter -= 0.2 * parameter.grad
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    trained = [p for name, p in networks.named_parameters() if name.split(".")[1] not in {"offsets", "landmarks"}]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained)
