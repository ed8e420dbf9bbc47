"""The judges of facial hair: what they say of a face that did not change, of a beard drawn on it, and of seams."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.evaluation.facial_hair import (
    LIMITS,
    SCORES,
    THRESHOLDS,
    edits_of,
    facial_hair_report,
    hair_error,
    joint,
    lower_skin,
    seam,
    style_scores,
    summary,
)
from rayface.evaluation.judges import Panel, using
from rayface.evaluation.subgroups import per_photo_values
from rayface.records import ATTRIBUTE_ID, FACIAL_HAIR, PARSING_ID
from rayface.systems.facial_hair_losses import styles_of


def faces(folder: str) -> tuple[FaceDataset, np.ndarray]:
    dataset = FaceDataset(folder, None, 256, ("attributes",))
    return dataset, styles_of(np.asarray(dataset.batch(range(len(dataset)), ("attributes",))["attributes"]))


def test_a_face_that_did_not_change_has_no_new_hair(drawn_faces: str) -> None:
    dataset, styles = faces(drawn_faces)
    with using(Panel()), per_photo_values() as values:
        found = facial_hair_report(lambda crops, _: crops, dataset, styles, 8, 2)
    for kind in ("adding", "removing", "women"):
        said = {name: value["value"] for name, value in found[kind].items() if name != "edits"}
        assert said["identity_distance"] == said["change_there"] == said["change_elsewhere"] == said["seam"] == 0
        assert said["meets_change_there"] == said["joint"] == 0
        assert said["meets_change_elsewhere"] == said["meets_seam"] == 1
    assert found["adding"]["edits"] == 2 * 4
    assert {"stubble", "moustache", "goatee", "full"} <= set(found)
    assert np.isfinite(values["joint_adding"]).sum() == 2
    assert np.isfinite(values["joint_removing"]).sum() == 2


def test_what_changes_elsewhere_is_seen(drawn_faces: str) -> None:
    dataset, styles = faces(drawn_faces)

    def darker(crops: Tensor, _: np.ndarray) -> Tensor:
        return (crops.float() * 0.8).to(torch.uint8)

    with using(Panel()):
        found = facial_hair_report(darker, dataset, styles, 8, 2)["adding"]
    assert found["meets_change_there"]["value"] == 1
    assert found["meets_change_elsewhere"]["value"] == 0


def test_edits_are_of_the_faces_that_they_are_about() -> None:
    attributes = np.full((6, 40), -1, np.int8)
    attributes[:4, ATTRIBUTE_ID["Male"]] = 1
    styles = np.array([0, 0, 4, 2, 0, 0])
    edits = edits_of(attributes, styles, None)
    assert edits["adding"].faces.tolist() == [0] * 4 + [1] * 4
    assert edits["adding"].styles.tolist() == [1, 2, 3, 4] * 2
    assert edits["removing"].faces.tolist() == [2, 3]
    assert edits["removing"].styles.tolist() == [0, 0]
    assert sorted(set(edits["women"].faces.tolist())) == [4, 5]
    assert len(edits_of(attributes, styles, 1)["adding"].faces) == 4


def test_an_edit_meets_all_limits_or_does_not() -> None:
    good = {"style_found": 1.0, "identity_distance": 0.3, "change_there": 0.05, "change_elsewhere": 0.0, "seam": 0.0}
    bad = {"style_found": 0.0, "identity_distance": 0.5, "change_there": 0.0, "change_elsewhere": 0.1, "seam": 0.1}
    assert good.keys() == bad.keys() == LIMITS.keys()
    edits = [good, *({**good, name: value} for name, value in bad.items())]
    values = {name: np.array([edit[name] for edit in edits]) for name in LIMITS}
    assert joint(values).tolist() == [1, 0, 0, 0, 0, 0]
    assert summary(values)["joint"]["value"] == pytest.approx(1 / 6)
    assert "joint" not in summary({"seam": values["seam"]}), "a judge is missing"


def test_every_style_has_a_score_and_a_threshold() -> None:
    assert SCORES.keys() == THRESHOLDS.keys() == set(FACIAL_HAIR)
    logits = torch.zeros(1, 40)
    logits[0, ATTRIBUTE_ID["Goatee"]] = 3
    scores = style_scores(logits)[0]
    assert int(scores.argmax()) in (FACIAL_HAIR.index("goatee"), FACIAL_HAIR.index("full"))
    assert float(scores[FACIAL_HAIR.index("none")]) == 0


def test_a_hard_edge_is_a_seam_and_a_soft_one_is_none() -> None:
    before = torch.full((1, 3, 128, 128), 180, dtype=torch.uint8)
    hard, soft = before.clone(), before.float()
    hard[:, :, 40:80, 40:80] = 60
    across = torch.linspace(-1, 1, 128)
    soft = soft - 60 * torch.exp(-3 * (across[:, None] ** 2 + across**2))
    found = seam(torch.cat([before] * 3), torch.cat([before, hard, soft.to(torch.uint8)]))
    assert found[0] == 0
    assert found[1] > LIMITS["seam"][1]
    assert found[2] < LIMITS["seam"][1]


def test_the_lower_face_is_skin_below_the_nose() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 10:50] = PARSING_ID["skin"]
    masks[:, 40:44, 20:40] = PARSING_ID["u_lip"]
    there = lower_skin(masks)[0]
    assert not there[:28].any()
    assert there[30].all()
    assert not there[41, 25]


def test_hair_that_is_painted_as_it_was_has_no_error(drawn_faces: str) -> None:
    dataset, styles = faces(drawn_faces)
    with using(Panel()):
        same = hair_error(lambda crops, _: crops, dataset, styles, 8, 4)
        bare = hair_error(lambda crops, _: crops * 0 + 200, dataset, styles, 8, 4)
        none = hair_error(lambda crops, _: crops, dataset, styles * 0, 8, 4)
    assert same["hair_error"]["value"] == 0
    assert bare["hair_error"]["value"] > 0.1
    assert none == {}
