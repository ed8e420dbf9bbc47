"""What a search leaves: `pareto.json` (every trial), `pareto.png` (the picture) and `best.json` (for --set-from)."""

import io
import json
from collections.abc import Sequence
from typing import Any

from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes
from tune.definition import Objective, Search

# What Ray Tune adds to a trial's own numbers.
TUNE_KEYS = {
    "timestamp", "done", "training_iteration", "time_this_iter_s", "time_total_s", "pid", "time_since_restore",
    "iterations_since_restore", "should_checkpoint",
}  # fmt: skip


def pareto_front(points: Sequence[Sequence[float]], modes: Sequence[str]) -> list[int]:
    """Indices of the points no other point beats: as good in every objective and better in one."""
    signed = [[v if mode == "max" else -v for v, mode in zip(p, modes, strict=True)] for p in points]
    return [
        index
        for index, ours in enumerate(signed)
        if not any(all(b >= a for a, b in zip(ours, other, strict=True)) and other != ours for other in signed)
    ]


def best_of(front: Sequence[Sequence[float]], points: Sequence[Sequence[float]], modes: Sequence[str]) -> int:
    """Index in `front` of the trade-off with the best mean of the objectives, each scaled to [0, 1] over all points."""

    def score(point: Sequence[float]) -> float:
        total = 0.0
        for axis, mode in enumerate(modes):
            values = [p[axis] for p in points]
            low, high = min(values), max(values)
            scaled = (point[axis] - low) / (high - low) if high > low else 0.5
            total += scaled if mode == "max" else 1 - scaled
        return total

    return max(range(len(front)), key=lambda index: score(front[index]))


def write_results(wanted: Search, results: Any, folder: str, kept: dict[str, str]) -> dict[str, Any]:
    """Write the three files into the search's folder and return what pareto.json holds.

    `kept`: further settings that belong to the result.
    """
    trials: list[dict[str, Any]] = []
    for result in results:
        metrics = result.metrics or {}
        chosen = dict(result.config or {})
        trials.append(
            {
                "trial": metrics.get("trial_id"),
                "chosen": chosen,
                "set": {**dict(item.split("=", 1) for item in wanted.fixed), **kept, **wanted.settings(chosen)},
                "metrics": {k: v for k, v in metrics.items() if isinstance(v, float | int) and k not in TUNE_KEYS},
                "error": str(result.error) if result.error else None,
            }
        )
    finished = [t for t in trials if all(o.metric in t["metrics"] for o in wanted.objectives)]
    if not finished:
        first = next((trial["error"] for trial in trials if trial["error"]), None)
        raise RayfaceError(
            f"no trial of the search in {folder} succeeded; "
            + (f"the first error: {first}" if first else "none was finished: give more --minutes")
        )
    modes = [o.mode for o in wanted.objectives]
    points = [[t["metrics"][o.metric] for o in wanted.objectives] for t in finished]
    front = pareto_front(points, modes)
    chosen = finished[front[best_of([points[i] for i in front], points, modes)]]
    for index, trial in enumerate(finished):
        trial["front"] = index in front
    report = {
        "search": wanted.name,
        "system": wanted.system,
        "objectives": [{"metric": o.metric, "mode": o.mode} for o in wanted.objectives],
        "trials": trials,
    }
    best = {
        "search": wanted.name,
        "system": wanted.system,
        "init": wanted.init,
        **{k: chosen[k] for k in ("trial", "set", "metrics")},
    }
    filesystem, path = open_filesystem(folder)
    write_bytes(json.dumps(report, indent=1).encode(), f"{path}/pareto.json", filesystem)
    write_bytes(_plot(wanted.objectives, points, front), f"{path}/pareto.png", filesystem)
    write_bytes(json.dumps(best, indent=1).encode(), f"{path}/best.json", filesystem)
    return report


def _plot(objectives: Sequence[Objective], points: Sequence[Sequence[float]], front: Sequence[int]) -> bytes:
    """A picture of the first two objectives of every trial, the front joined, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.scatter([p[0] for p in points], [p[1] for p in points], color="#8a8f98", label="trials")
    ordered = sorted((points[i] for i in front), key=lambda p: p[0])
    axes.plot([p[0] for p in ordered], [p[1] for p in ordered], "o-", color="#c2410c", label="front")
    axes.set_xlabel(f"{objectives[0].metric} ({objectives[0].mode})")
    axes.set_ylabel(f"{objectives[1].metric} ({objectives[1].mode})")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
