"""The trail of channel reduction as a picture: what was asked of each layer, what was kept, and what it still knows."""

import io
from collections.abc import Sequence
from typing import Any

COLOURS = {"as asked": "#16a34a", "lowered": "#d97706", "nothing": "#b91c1c"}


def outcome(line: dict[str, Any]) -> str:
    """What became of the ratio asked of a layer."""
    if line["left"] == line["channels"]:
        return "nothing" if line["asked"] else "as asked"
    return "as asked" if line["kept"] == line["asked"] else "lowered"


def trail_picture(trail: Sequence[dict[str, Any]]) -> bytes:
    """PNG: a column a round; a row a layer with its channels before and after, and the change of its score in dB."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rounds = sorted({line["round"] for line in trail})
    layers = list(dict.fromkeys(line["layer"] for line in trail))
    figure = Figure(figsize=(3.4 + 2.6 * len(rounds), 1.2 + 0.24 * len(layers)), dpi=110, layout="constrained")
    every_axes = figure.subplots(1, len(rounds), sharey=True, squeeze=False)[0]
    for axes, round_ in zip(every_axes, rounds, strict=True):
        for line in trail:
            if line["round"] == round_:
                place = layers.index(line["layer"])
                axes.barh(place, line["channels"], color="#e5e7eb")
                axes.barh(place, line["left"], color=COLOURS[outcome(line)])
                text = f"{line['channels']} to {line['left']}"
                if line["score"] is not None:
                    text += f", {line['score'] - line['score_before']:+.1f} dB"
                axes.text(line["channels"], place, f" {text}", va="center", fontsize=7)
        axes.set_title(f"round {round_}")
        axes.set_xlabel("channels")
        axes.set_xlim(0, 1.9 * max(line["channels"] for line in trail))
        axes.spines[["top", "right"]].set_visible(False)
    every_axes[0].set_yticks(range(len(layers)), layers, fontsize=7)
    every_axes[0].invert_yaxis()
    handles = [Patch(color=colour, label=f"ratio {name}") for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
