"""The report of swapped faces: what counts as the donor's, as the texture's own, and as kept."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.evaluation import face_swap
from rayface.evaluation.face_swap import LIMITS, _cosine, _euclidean, _Judges, donors_of, face_swap_report
from rayface.evaluation.gallery import people_of
from rayface.evaluation.judges import Panel, using
from rayface.records import ATTRIBUTE_ID


@pytest.fixture(scope="module")
def faces(drawn_faces: str) -> FaceDataset:
    return FaceDataset(drawn_faces, None, 256)


def test_donors_are_other_people_of_the_same_sex_and_always_the_same(faces: FaceDataset) -> None:
    textures, donors = donors_of(faces, None)
    people = people_of(faces)
    assert (people[textures] != people[donors]).all()
    male = np.asarray(faces.batch(range(len(faces)), ("attributes",))["attributes"])[:, ATTRIBUTE_ID["Male"]]
    assert (male[textures] == male[donors]).all()
    assert np.array_equal(donors, donors_of(faces, None)[1])
    assert np.array_equal(donors[:3], donors_of(faces, 3)[1])
    assert len(set(donors.tolist())) > 2


def test_distances_are_those_of_every_pair() -> None:
    ours, theirs = torch.randn(3, 8), torch.randn(5, 8)
    for distance, of_pair in (
        (_euclidean, lambda a, b: (a - b).norm()),
        (_cosine, lambda a, b: 1 - torch.cosine_similarity(a, b, dim=0)),
    ):
        expected = torch.tensor([[of_pair(a, b) for b in theirs] for a in ours])
        assert torch.allclose(distance(ours, theirs), expected, atol=1e-5)
        own = distance(ours, theirs[:3, None])[:, 0]
        assert torch.allclose(
            own, torch.stack([of_pair(a, b) for a, b in zip(ours, theirs[:3], strict=True)]), atol=1e-5
        )


def test_the_donor_comes_first_only_where_it_is_nearer_than_all_others(faces: FaceDataset) -> None:
    judges = _Judges.__new__(_Judges)
    gallery = torch.eye(4)
    held = SimpleNamespace(held=np.array(["a", "b", "c", "d"]), embeddings=gallery)
    judges.galleries = {"identity": held}  # type: ignore[dict-item]
    person, donor = np.array(["a", "a", "a"]), np.array(["b", "b", "b"])
    after = torch.stack([gallery[1] * 0.9, gallery[0] * 0.9, gallery[2] * 0.9])  # the donor; the own; somebody else
    judges.known = lambda crops: {"identity": after}  # type: ignore[method-assign]
    own, given = ({"identity": gallery[[place] * 3]} for place in (0, 1))
    values = judges.compared(torch.zeros(3), own, given, person, donor)
    assert values["donor_first"].tolist() == [1, 0, 0]
    assert values["own_first"].tolist() == [0, 1, 0]
    assert values["identity_distance"][0] == pytest.approx(0.1, abs=1e-5)
    assert values["identity_own"][1] == pytest.approx(0.1, abs=1e-5)


def report_of(change, faces: FaceDataset, limit: int = 4):
    with using(Panel()):
        return face_swap_report(change, faces, 4, limit)


def test_who_is_left_alone_is_kept_and_not_the_donor(faces: FaceDataset) -> None:
    report = report_of(lambda crops, donors: crops, faces)
    swaps = report["swaps"]
    assert report["pairs"] == 4
    assert swaps["landmarks"]["value"] == 0
    assert swaps["elsewhere"]["value"] == 0
    assert swaps["donor_first"]["value"] == 0
    assert swaps["own_first"]["value"] == 1
    assert report["nobody"]["own_first"]["value"] == 1
    assert report["again"]["psnr"]["value"] > 50
    blend = report["blend"]  # the donor's own pixels, whatever is judged beside them
    assert blend["own_first"]["value"] < 1
    assert blend["elsewhere"]["value"] <= LIMITS["elsewhere"][1]
    assert blend.keys() == swaps.keys()


def test_the_donors_photo_is_the_donor_and_keeps_nothing(faces: FaceDataset) -> None:
    def pasted(crops: Tensor, donors: Tensor | None) -> Tensor:
        return crops if donors is None else donors

    swaps = report_of(pasted, faces)["swaps"]
    assert swaps["donor_first"]["value"] == 1
    assert swaps["own_first"]["value"] == 0
    assert swaps["elsewhere"]["value"] > LIMITS["elsewhere"][1]


def test_a_face_that_is_gone_did_not_keep_its_landmarks(faces: FaceDataset) -> None:
    report = report_of(lambda crops, donors: torch.full_like(crops, 127), faces)
    assert report["swaps"]["meets_landmarks"]["value"] == 0
    json.dumps(report, allow_nan=False)  # the service gives a model's figures away


def test_without_a_judge_its_measures_and_joint_are_missing(faces: FaceDataset) -> None:
    panel = Panel(refused={"identity": "not here", "identity_second": "not here"})
    with using(panel):
        report = face_swap_report(lambda crops, donors: crops, faces, 4, 2)
    assert "donor_first" not in report["swaps"]
    assert "joint" not in report["swaps"]
    assert {"donor_first", "own_first", "identity_distance"} <= panel.missing.keys()
    assert face_swap.FIRST.keys() == {"identity", "identity_second"}
