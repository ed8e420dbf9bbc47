"""The judges of beautification: what they say of a face that did not change, that changed too far, and of filters."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.evaluation.beautification import LIMITS, beautification_report, joint, region_iou, summary
from rayface.evaluation.classical_beauty import smooth_and_warp
from rayface.evaluation.judges import Panel, using
from rayface.evaluation.segmentation import counts
from rayface.evaluation.skin_tone import typology_angle
from rayface.evaluation.subgroups import per_photo_values
from rayface.records import PARSING_ID
from rayface.systems.beauty import GUARDED

FACES = 6


def report(folder: str, change: object, **options: object) -> dict[str, dict[str, dict[str, float]]]:
    dataset = FaceDataset(folder, None, 256, ("attributes",))
    with using(Panel(refused={"identity_second": "not asked"}, **options)):  # type: ignore[arg-type]
        return beautification_report(change, dataset, GUARDED, 8, FACES)  # type: ignore[arg-type]


def test_an_unchanged_face_is_nobody_else_and_no_more_attractive(drawn_faces: str) -> None:
    with per_photo_values() as values:
        found = report(drawn_faces, lambda crops: crops)
    said = {name: value["value"] for name, value in found["model"].items()}
    assert found["faces"] == FACES
    assert said["attractiveness_shift"] == pytest.approx(0, abs=1e-5)
    assert said["identity_distance"] == 0
    assert said["ranks_first"] == said["parsing_agreement"] == said["guarded_agreement"] == 1
    assert said["gender_flips"] == said["skin_tone_change"] == said["joint"] == 0
    assert said["meets_attractiveness_shift"] == 0
    assert "attractiveness_shift" in found["smoothing"], "the classical method stands beside it"
    assert np.isfinite(values["joint"]).sum() == FACES, "only ordinary faces have a value"


def test_another_persons_face_is_found_out(drawn_faces: str) -> None:
    found = report(drawn_faces, lambda crops: crops.roll(1, 0), baselines=False)["model"]
    assert found["identity_distance"]["value"] > 0.05
    assert found["ranks_first"]["value"] < 0.5
    assert found["joint"]["value"] == 0


def test_lighter_skin_is_seen_as_such(drawn_faces: str) -> None:
    found = report(drawn_faces, lambda crops: (crops.float() + 25).clamp(0, 255).to(torch.uint8), baselines=False)
    assert found["model"]["skin_lightening"]["value"] > 3


def test_data_of_one_kind_is_refused(drawn_faces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FaceDataset(drawn_faces, None, 256, ("attributes",))
    monkeypatch.setattr(dataset, "batch", lambda *_: {"attributes": torch.full((len(dataset), 40), -1)})
    with pytest.raises(RayfaceError, match="0 attractive faces"):
        beautification_report(lambda crops: crops, dataset, GUARDED, 8, None)


def test_a_face_meets_all_limits_or_does_not() -> None:
    good = {"attractiveness_shift": 0.3, "identity_distance": 0.3, "ranks_first": 1.0, "parsing_agreement": 0.9,
            "guarded_agreement": 0.95}  # fmt: skip
    bad = {"attractiveness_shift": 0.2, "identity_distance": 0.5, "ranks_first": 0.0, "parsing_agreement": 0.8,
           "guarded_agreement": 0.85}  # fmt: skip
    assert good.keys() == bad.keys() == LIMITS.keys()
    faces = [good, *({**good, name: value} for name, value in bad.items())]
    values = {name: np.array([face[name] for face in faces]) for name in LIMITS}
    assert joint(values).tolist() == [1, 0, 0, 0, 0, 0]
    assert summary(values)["joint"]["value"] == pytest.approx(1 / 6)
    assert summary(values)["identity_distance"]["value"] == 0.3, "the median"
    assert "joint" not in summary({"attractiveness_shift": values["attractiveness_shift"]}), "a judge is missing"


def test_agreement_of_masks() -> None:
    old = np.zeros((3, 16, 16), np.uint8)
    old[:, 4:12, 4:12] = PARSING_ID["skin"]
    new = old.copy()
    new[1] = new[1].T * 0 + np.roll(old[1], 4, 1)  # half of it elsewhere
    new[2] = 0
    assert region_iou(counts(new, old)) == pytest.approx([1, 1 / 3, 0])


def test_skin_tone_follows_the_skin_alone() -> None:
    crops = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    crops[0] = torch.tensor([224, 172, 140])[:, None, None]
    crops[1] = torch.tensor([110, 70, 50])[:, None, None]
    skin = torch.zeros(3, 8, 8, dtype=torch.bool)
    skin[:2, 2:6, 2:6] = True
    crops[0, :, 0] = 255
    light, dark, nobody = typology_angle(crops, skin).tolist()
    assert 30 < light < 60
    assert dark < -30
    assert nobody != nobody


def test_the_classical_method_smooths_skin_only(drawn_faces: str) -> None:
    crops = FaceDataset(drawn_faces, None, 256).batch([0, 1], ("image", "mask"))
    images, masks = crops["image"], crops["mask"]
    assert isinstance(images, Tensor)
    assert isinstance(masks, Tensor)
    noisy = (images.float() + 12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    noisy = noisy.to(torch.uint8)
    warped = smooth_and_warp(noisy, torch.zeros_like(masks))
    smoothed = smooth_and_warp(noisy, masks)
    skin = (masks == PARSING_ID["skin"])[:, None].expand_as(images)
    hair = (masks == PARSING_ID["hair"])[:, None].expand_as(images)

    def roughness(pictures: Tensor, where: Tensor) -> float:
        steps = (pictures[..., 1:].float() - pictures[..., :-1].float()).abs()
        return float(steps[where[..., 1:]].mean())

    assert roughness(smoothed, skin) < 0.7 * roughness(warped, skin)
    assert roughness(smoothed, hair) > 0.9 * roughness(warped, hair)
