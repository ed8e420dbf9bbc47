"""What a changed face must meet at once: limits on measures that reports have one value of per edit."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from rayface.evaluation.metrics import bootstrap

Values = dict[str, np.ndarray]  # what is measured -> one value an edit
Limits = Mapping[str, tuple[str, float]]  # measure -> "least" or "most", and the bound


def summary(values: Values, limits: Limits, shares: Collection[str] = ()) -> dict[str, Any]:
    """Means of the measures with intervals (of identity distances the median), of what is finite.

    Besides `meets_...`, the share of edits that meet each limit (not of `shares`, whose mean says it), and `joint`, of
    those that meet all, where all were measured.
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        known = value[np.isfinite(value)]  # an infinite one meets no limit, and is in no mean: JSON knows none
        if len(known):
            result[name] = bootstrap(known, np.median if name.startswith("identity") else np.mean)
    for name, limit in limits.items():
        if name in values and name not in shares:
            result[f"meets_{name}"] = bootstrap(_meets(values[name], *limit))
    if limits.keys() <= values.keys():
        result["joint"] = bootstrap(joint(values, limits))
    return result


def joint(values: Values, limits: Limits) -> np.ndarray:
    """Which edits meet all of the limits: float [N] of 0 and 1."""
    return np.prod([_meets(values[name], *limit) for name, limit in limits.items()], axis=0)


def _meets(values: np.ndarray, kind: str, bound: float) -> np.ndarray:
    return ((values >= bound) if kind == "least" else (values <= bound)).astype(float)
