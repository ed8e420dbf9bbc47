"""The judges of edits: an edit that does nothing, one that tells another person, steps saved by a first guess."""

import numpy as np
import torch
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.evaluation.attribute_editing import TOLD, edits_report, first_guess_report, inversion_report
from rayface.evaluation.judges import Panel, using
from rayface.evaluation.subgroups import per_photo_values
from rayface.records import ATTRIBUTES

LABELS = ("Smiling", "Male")


def faces(folder: str) -> FaceDataset:
    return FaceDataset(folder, None, 128)


def test_an_edit_that_does_nothing_flips_nothing(drawn_faces: str) -> None:
    asked = []

    def nothing(crops: Tensor, wanted: Tensor) -> list[Tensor]:
        asked.append(wanted)
        return [crops for _ in wanted]

    with using(Panel()), per_photo_values() as values:
        report = edits_report(nothing, faces(drawn_faces), LABELS, 2, 3)
    assert report["all"]["edits"] == 3 * len(LABELS)
    assert report["Smiling"]["edits"] == report["Male"]["edits"] == 3
    for kind in ("all", "Smiling", "Male"):
        assert report[kind]["flipped"]["value"] == report[kind]["joint"]["value"] == 0
        assert report[kind]["others_agree"]["value"] == report[kind]["ranks_first"]["value"] == 1
        assert report[kind]["identity_distance"]["value"] == 0
    wanted = torch.cat(asked, 1)  # [edits, faces, attributes]
    assert (~wanted.isnan()).sum(2).eq(1).all()
    assert (~wanted[0, :, 0].isnan()).all()
    assert (~wanted[1, :, 1].isnan()).all()
    assert np.isfinite(values["joint"]).sum() == 3


def test_another_persons_face_is_not_the_same_person_with_an_attribute(drawn_faces: str) -> None:
    def swapped(crops: Tensor, wanted: Tensor) -> list[Tensor]:
        return [crops.flip(0) for _ in wanted]

    with using(Panel()):
        report = edits_report(swapped, faces(drawn_faces), LABELS, 2, 2)
    assert report["all"]["ranks_first"]["value"] == 0
    assert report["all"]["joint"]["value"] == 0
    assert report["people"] > 2


def test_the_attributes_exist() -> None:
    assert set(TOLD) <= set(ATTRIBUTES)


def test_inversions_are_compared_with_the_photos(drawn_faces: str) -> None:
    ways = {"itself": lambda crops: crops, "black": lambda crops: crops * 0}
    with using(Panel()):
        report = inversion_report(ways, faces(drawn_faces), 2, 3)
    assert report["itself"]["psnr"]["value"] > report["black"]["psnr"]["value"]
    assert report["itself"]["perceptual_distance"]["value"] == 0 < report["black"]["perceptual_distance"]["value"]


def test_steps_that_a_first_guess_saves(drawn_faces: str) -> None:
    def losses(crops: Tensor, first_guess: bool) -> Tensor:
        steps = torch.arange(10.0)[:, None].expand(-1, len(crops))
        return 10 - 2 * steps.clamp(max=8) if first_guess else 10 - steps

    report = first_guess_report(losses, faces(drawn_faces), 2, 3)
    # without it the search ends at 1; with it 2 is the best before -6: reached at step 5
    assert report["steps_saved"]["value"] == 4
    assert report["loss"]["without"] == {"first": 10.0, "last": 1.0}

    never = first_guess_report(lambda crops, guess: losses(crops, not guess), faces(drawn_faces), 2, 3)
    assert never["steps_saved"]["value"] < 0
