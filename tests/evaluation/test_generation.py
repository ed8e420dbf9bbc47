"""Fréchet distances and what copies training photos."""

import numpy as np
import pytest
import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.generation import Eigenfaces, frechet_distance, generation_report
from rayface.evaluation.judges import Panel, using


def test_the_distance_is_that_of_normal_distributions() -> None:
    torch.manual_seed(0)
    ours = torch.randn(200_000, 3) * torch.tensor([1.0, 2.0, 0.5])
    theirs = torch.randn(200_000, 3) + torch.tensor([1.0, 0.0, 2.0])
    assert frechet_distance(ours, theirs) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (1 - 0.5) ** 2, rel=0.02)
    assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-6)
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    assert frechet_distance(ours @ rotation, theirs @ rotation) == pytest.approx(
        frechet_distance(ours, theirs), rel=1e-4
    )


def test_fewer_samples_than_features_are_no_fault() -> None:
    few = torch.randn(5, 40)
    assert np.isfinite(frechet_distance(few, torch.randn(6, 40)))


def test_eigenfaces_have_the_photos_mean_and_are_the_same_every_time(drawn_faces: str) -> None:
    photos = FaceDataset(drawn_faces, None, 64).batch(range(16), ("image",))["image"]
    assert isinstance(photos, torch.Tensor)
    eigenfaces = Eigenfaces(lambda first, count: photos[first : first + count], 16, 5)
    drawn = eigenfaces(0, 200)
    assert drawn.shape == (200, 3, 64, 64)
    assert torch.equal(drawn[7:9], eigenfaces(7, 2))
    assert (drawn.float().mean(0) - photos.float().mean(0)).abs().mean() < 10


def test_a_generator_that_copies_is_found_out(drawn_faces: str) -> None:
    known, held_out = (FaceDataset(drawn_faces, split, 64) for split in ("train", "test"))

    def copied(first: int, count: int) -> torch.Tensor:
        crops = known.batch(range(first, first + count), ("image",))["image"]
        assert isinstance(crops, torch.Tensor)
        return crops.flip(3)

    with using(Panel()):
        report = generation_report(copied, held_out, known, 4, 6)
    assert report["faces"] == min(6, len(held_out))
    assert report["copied"] == 1
    assert report["nearest"]["model"] < 0.01 < report["nearest"]["held_out"]
    assert report["eigenfaces"]["frechet"] > report["photos"]["frechet"]
