from typing import Any

import numpy as np
import pytest
import torch

from rayface.evaluation.judges import Panel, using
from rayface.evaluation.metrics import PICTURE_METRICS, bootstrap
from rayface.evaluation.pictures import grid
from rayface.evaluation.segmentation import counts, f1, region_f1, segmentation_report
from rayface.records import PARSING_ID


@pytest.fixture
def pictures() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)


def test_every_metric_is_best_for_equal_pictures(pictures: torch.Tensor) -> None:
    best = {"psnr": 100.0, "ssim": 1.0, "colour_shift": 0.0}
    for name, metric in PICTURE_METRICS.items():
        value = metric(pictures, pictures)
        assert value.shape == (3,)
        assert value.tolist() == pytest.approx([best[name]] * 3, abs=1e-4)


def test_psnr_of_a_known_error() -> None:
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    assert PICTURE_METRICS["psnr"](grey + 10, grey).item() == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert PICTURE_METRICS["colour_shift"](grey + 10, grey).item() == 10


def test_worse_pictures_score_worse(pictures: torch.Tensor) -> None:
    noise = torch.randint(-40, 41, pictures.shape)
    noisy = (pictures.int() + noise).clamp(0, 255).to(torch.uint8)
    slightly = (pictures.int() + noise // 4).clamp(0, 255).to(torch.uint8)
    for name in ("psnr", "ssim"):
        metric = PICTURE_METRICS[name]
        assert (metric(slightly, pictures) > metric(noisy, pictures)).all()


def test_counts_against_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    predicted, target = (random.integers(0, 19, (2, 8, 8), dtype=np.uint8) for _ in range(2))
    table = counts(predicted, target)
    for photo in range(2):
        for name in range(19):
            ours, theirs = predicted[photo] == name, target[photo] == name
            expected = [(ours & theirs).sum(), (ours & ~theirs).sum(), (~ours & theirs).sum()]
            assert table[photo, name].tolist() == expected


def test_left_taken_for_right_is_wrong() -> None:
    left = np.full((1, 4, 4), PARSING_ID["l_eye"], np.uint8)
    right = np.full((1, 4, 4), PARSING_ID["r_eye"], np.uint8)
    eyes = 2  # the third region
    assert region_f1(counts(left, left))[eyes] == 1
    assert region_f1(counts(left, right))[eyes] == 0


def test_f1_of_an_absent_class_is_not_a_number() -> None:
    assert np.isnan(f1(np.zeros((1, 3))))


def test_bootstrap_holds_the_mean_and_repeats() -> None:
    values = np.random.default_rng(1).normal(5, 1, 400)
    first = bootstrap(values)
    assert first == bootstrap(values)
    assert first["low"] < values.mean() < first["high"]
    assert first["high"] - first["low"] == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_grid_places_every_crop() -> None:
    crops = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8) * 10
    picture = grid([crops[:2], crops[2:]], gap=2)
    assert picture.shape == (3, 22, 22)
    assert picture[0, 5, 5] == 0
    assert picture[0, 5, 15] == 10
    assert picture[0, 15, 5] == 20
    assert picture[0, 15, 15] == 30


def test_the_parsing_baseline_is_the_most_common_mask() -> None:
    """Two photos of three show the same mask: it is right for these, whatever the third shows."""
    masks = torch.zeros(3, 8, 8, dtype=torch.uint8)
    masks[:2, :4], masks[2, 4:] = PARSING_ID["skin"], PARSING_ID["skin"]

    class Masks:
        def __len__(self) -> int:
            return len(masks)

        def batch(self, indices: Any, columns: Any) -> dict[str, torch.Tensor]:
            return {name: masks[list(indices)] for name in columns}

    report = segmentation_report(lambda images: images, Masks(), 2, None)  # type: ignore[arg-type]
    assert report["mean_f1"]["value"] == report["region_f1"]["skin"]["value"] == 1
    assert set(report["region_f1"]) == {"skin"}, "nothing else is shown"
    assert report["baseline_mean_f1"]["value"] == pytest.approx(2 / 3)
    with using(Panel(baselines=False)):
        assert "baseline_mean_f1" not in segmentation_report(lambda images: images, Masks(), 2, None)  # type: ignore[arg-type]
