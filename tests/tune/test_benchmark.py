"""The numbers that the benchmarks of search and training boil runs down to."""

import json
from pathlib import Path

import pytest

from benchmarks.pruning_search import hypervolume, within
from rayface.comparison import table


def test_hypervolume_is_the_dominated_share() -> None:
    whole = {"least": 20.0, "most": 24.0, "whole": 100.0}
    assert hypervolume([(24.0, 0.0)], **whole) == 1
    assert hypervolume([(20.0, 10.0)], **whole) == 0
    assert hypervolume([(22.0, 50.0)], **whole) == pytest.approx(0.25)
    # a second point adds what the first does not dominate; a dominated one adds nothing
    assert hypervolume([(22.0, 50.0), (24.0, 75.0)], **whole) == pytest.approx(0.25 + 0.125)
    assert hypervolume([(22.0, 50.0), (21.0, 60.0)], **whole) == pytest.approx(0.25)


def test_the_best_within_a_cost() -> None:
    points = [(22.0, 50.0), (24.0, 75.0)]
    assert within(points, 60) == 22
    assert within(points, 75) == 24
    assert within(points, 10) is None


def test_the_table_of_arms(tmp_path: Path) -> None:
    for seed, psnr in enumerate((1.0, 3.0)):
        run = {"arm": "wide", "seed": seed, "megamacs": 7.2, "psnr": {"value": psnr, "low": 0, "high": 9}}
        (tmp_path / f"wide-{seed}.json").write_text(json.dumps(run))
    (tmp_path / "teacher.json").write_text(json.dumps({"arm": "teacher", "megamacs": 30, "psnr": 5.0}))
    lines = table(tmp_path, ["psnr"]).splitlines()
    assert lines[2:] == [
        "| teacher |  | 30 | 5.000 |",
        "| wide | 0 | 7 | 1.000 |",
        "| wide | 1 | 7 | 3.000 |",
        "| **wide** | all 2 | | **2.000** (1.000 to 3.000) |",
    ]
