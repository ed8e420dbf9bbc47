"""Pictures of a run's log beside the loss curves that TensorBoard shows."""

import io
import json
from pathlib import Path
from typing import Any


def adaptation_picture(metrics: Path) -> bytes | None:
    """PNG of factors and strengths of adaptive degradation over the steps of a metrics.jsonl; None without any."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    if not any(name.startswith("strength/") for line in lines for name in line):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, prefix, title in ((above, "factor/", "factor: 0 too hard, 1 too easy"), (below, "strength/", "strength")):
        for name in sorted({name for line in lines for name in line if name.startswith(prefix)}):
            points = [(line["step"], line[name]) for line in lines if name in line]
            kind = name.removeprefix(prefix)
            style: dict[str, Any] = {"color": "black", "linewidth": 2} if kind == "all" else {}
            axes.plot(*zip(*points, strict=True), label=kind, drawstyle="steps-post", **style)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, ncols=3)
    below.set_xlabel("step")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
