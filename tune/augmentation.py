"""The augmentation search: how strongly each type of training degradation should act (SPEC C1, C3, F4)."""

from typing import Any

from rayface.data.degradation import TYPES
from tune.search import Objective, Search


def _space() -> dict[str, Any]:
    from ray import tune

    return {f"degradation.{kind}_strength": tune.uniform(0.25, 2.0) for kind in TYPES}


def _metrics(report: dict[str, Any]) -> dict[str, float]:
    """Mean PSNR of the restored validation photos on the mildest and on the hardest pinned degradations."""
    return {f"psnr_{severity}": report[severity]["model"]["psnr"]["value"] for severity in ("easy", "medium", "hard")}


AUGMENTATION = Search(
    name="augmentation",
    system="enhancement",
    space=_space,
    # the ranges as RECIPES gives them, as a first trial: a search should never end below its starting point
    known=({f"degradation.{kind}_strength": 1.0 for kind in TYPES},),
    objectives=(Objective("psnr_easy", "max"), Objective("psnr_hard", "max")),
    metrics=_metrics,
)
