"""The augmentation search: how strongly each type of training degradation should act (SPEC C1, C3, F4)."""

from typing import Any

from rayface.data.adaptation import AdaptationConfig
from rayface.data.degradation import TYPES
from rayface.systems.base import Networks
from tune.definition import Objective, Search


def _space() -> dict[str, Any]:
    from ray import tune

    return {f"degradation.{kind}_strength": tune.uniform(0.25, 2.0) for kind in TYPES}


def _controller_space() -> dict[str, Any]:
    """Of adaptive degradation: when a type is too hard or too easy, and how fast its strength follows."""
    from ray import tune

    return {
        "adaptation.low": tune.uniform(0.0, 0.04),
        "adaptation.high": tune.uniform(0.05, 0.5),
        "adaptation.least": tune.uniform(0.25, 1.0),
        "adaptation.most": tune.uniform(1.1, 2.0),
        "adaptation.gain": tune.loguniform(0.03, 0.4),
        "adaptation.every": tune.choice([25, 50, 100]),
    }


def mean_psnr(report: dict[str, Any]) -> dict[str, float]:
    """Mean PSNR of the restored validation photos by severity of the pinned degradations, and over the three."""
    found = {f"psnr_{severity}": report[severity]["model"]["psnr"]["value"] for severity in ("easy", "medium", "hard")}
    return {**found, "psnr_mean": sum(found.values()) / len(found)}


def _metrics(report: dict[str, Any], networks: Networks, config: Any) -> dict[str, float]:
    return mean_psnr(report)


# the picture shows the first two
OBJECTIVES = tuple(Objective(f"psnr_{severity}", "max") for severity in ("easy", "hard", "medium"))

AUGMENTATION = Search(
    name="augmentation",
    system="enhancement",
    space=_space,
    # the ranges as RECIPES gives them, as a first trial: a search should never end below its starting point
    known=({f"degradation.{kind}_strength": 1.0 for kind in TYPES},),
    objectives=OBJECTIVES,
    metrics=_metrics,
    score="psnr_mean",
)

CONTROLLED = ("low", "high", "least", "most", "gain", "every")
DEFAULTS = AdaptationConfig(every=25)

CONTROLLER = Search(
    name="adaptation",
    system="enhancement",
    space=_controller_space,
    known=({f"adaptation.{name}": getattr(DEFAULTS, name) for name in CONTROLLED},),
    objectives=OBJECTIVES,
    metrics=_metrics,
    score="psnr_mean",
    fixed=("adversarial_from=0",),  # the discriminator is what is asked
)
