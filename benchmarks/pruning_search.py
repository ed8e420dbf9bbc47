"""Does the pruning search find better trade-offs than uniform ratios and than random ones, at the same budget?

    python -m benchmarks.pruning_search --data DIR --out runs/pruning-search [--trials 16] [--seeds 3] [--set k=v]

Three arms with as many trials each, every trial a short training from the same model: Optuna's search as `python -m
tune pruning` runs it, points drawn at random from the same space, and one ratio for all layers in equal steps. Each
arm's trade-offs are boiled down to the hypervolume: the share that its trials dominate of the rectangle between (lowest
PSNR of all trials, the whole network's multiplications) and (highest PSNR of all, none). Beside it the best PSNR within
a half, a quarter and a sixth of the multiplications. Judged on the validation split. Stops and goes on where it was.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from tune.definition import Search, SearchRequest
from tune.pruning import MOST, OVERALL, pruning_search
from tune.search import search

ARMS = ("search", "random", "uniform")


def arm_of(wanted: Search, arm: str, trials: int, seed: int) -> Search:
    """The search with the trials of an arm; those of `random` and `uniform` are all given beforehand."""
    if arm == "search":
        return wanted
    space = wanted.space()
    if arm == "random":
        random = np.random.default_rng(seed)
        points = [{name: float(random.uniform(d.lower, d.upper)) for name, d in space.items()} for _ in range(trials)]
    else:
        points = [dict.fromkeys(space, 0.0) | {OVERALL: float(ratio)} for ratio in np.linspace(0, MOST, trials)]
    return dataclasses.replace(wanted, known=tuple(points))


def hypervolume(points: list[tuple[float, float]], least: float, most: float, whole: float) -> float:
    """Share of the rectangle that points of (quality up, cost down) dominate."""
    area, best = 0.0, least
    for quality, cost in sorted(points, key=lambda point: point[1]):
        if quality > best:
            area += (quality - best) * max(0.0, whole - cost)
            best = quality
    return area / ((most - least) * whole)


def within(points: list[tuple[float, float]], cost: float) -> float | None:
    return max((quality for quality, paid in points if paid <= cost), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--init", default="enhancement")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    wanted = pruning_search("enhancement", arguments.init)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            found[arm, seed] = run_arm(arguments, arm_of(wanted, arm, arguments.trials, seed), arm, seed)
    print(json.dumps(summary(found), indent=1))
    Path(arguments.out, "summary.json").write_text(json.dumps(summary(found), indent=1) + "\n")


def run_arm(arguments: argparse.Namespace, wanted: Search, arm: str, seed: int) -> list[tuple[float, float]]:
    """(PSNR, million multiplications) of every trial."""
    name = f"{arm}-{seed}"
    report = Path(arguments.out, name, "pareto.json")
    if not report.exists():
        search(
            wanted,
            SearchRequest(
                arguments.data, arguments.trials, overrides=(*arguments.set, f"seed={seed}"), storage=arguments.out,
                name=name, resume=Path(arguments.out, name, "tuner.pkl").exists(), limit=arguments.limit, seed=seed,
            ),
        )  # fmt: skip
    trials = json.loads(report.read_text())["trials"]
    return [(t["metrics"]["psnr_mean"], t["metrics"]["megamacs"]) for t in trials if t["error"] is None]


def summary(found: dict[tuple[str, int], list[tuple[float, float]]]) -> dict[str, Any]:
    everything = [point for points in found.values() for point in points]
    least, most = min(p[0] for p in everything), max(p[0] for p in everything)
    whole = max(p[1] for p in everything)
    table = [
        {
            "arm": arm, "seed": seed, "trials": len(points),
            "hypervolume": round(hypervolume(points, least, most, whole), 4),
            **{f"psnr_within_1/{part}": within(points, whole / part) for part in (2, 4, 6)},
        }
        for (arm, seed), points in found.items()
    ]  # fmt: skip
    means = {arm: float(np.mean([row["hypervolume"] for row in table if row["arm"] == arm])) for arm in ARMS}
    return {"rows": table, "mean_hypervolume": means, "psnr_range": [least, most], "whole_megamacs": whole}


if __name__ == "__main__":
    main()
