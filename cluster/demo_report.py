"""The demo's report as one HTML page, pictures included."""

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

from rayface.evaluation.restoration import COMPARISONS

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{border:1px solid #8886;padding:.3rem .6rem;text-align:left}
figure{display:inline-block;margin:0 1rem 1rem 0}img{max-width:100%;height:auto;display:block}code{font-size:.85em}
figcaption{font-size:.85rem;opacity:.8}.trio img{width:256px;display:inline-block}.note{opacity:.75;font-size:.9rem}
"""

LABELS = {
    "degraded": "posted",
    "enhanced": "the service's answer, with the models just trained",
    "release": "the same by the release weights",
    "clear": "the original, for comparison",
}


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write `folder/report.html` from what the demo measured."""
    seconds = report["seconds"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>rayface demo</title><style>{STYLE}</style>",
        "<h1>rayface: from nothing to an enhanced photo</h1>",
        f"<p>{html.escape(report['photos'])}. The whole demo took {seconds // 60} min {seconds % 60} s here; ",
        "the networks were trained for a few minutes only, so expect a first improvement, not a product.</p>",
        "<h2>Photos posted to the service</h2>",
        *(_trio(served, folder) for served in report["served"]),
        "<h2>Evaluation on the test split</h2>",
        _enhancement_table(report["evaluation"]["enhancement"]),
        _parsing_table(report["evaluation"]["parsing"]),
        *_labelled(report["labelled"], folder),
        "<h2>Training</h2>",
        _image(_curves(folder / "train"), "Losses over steps"),
        *(_samples(folder / "train" / system) for system in ("parsing", "enhancement")),
        "<h2>Tune: strengths of the training degradations</h2>",
        _image((folder / "tune" / "pareto.png").read_bytes(), "PSNR on mild and on hard inputs, two short trials"),
        "<h2>Tune: how narrow the release enhancer may become</h2>",
        _image(
            (folder / "pruning" / "pareto.png").read_bytes(), "Mean PSNR against multiplications, four short trials"
        ),
        "<h2>What ran</h2>",
        _commands(report["commands"]),
    ]
    (folder / "report.html").write_text("\n".join(parts))


def _labelled(labelled: dict[str, Any] | None, folder: Path) -> list[str]:
    """What `rayface data label` made of photos without labels."""
    if labelled is None:
        return []
    groups, splits = labelled["groups"], labelled["splits"]
    rows = {
        "photos, of which come twice": f"{labelled['photos'] + labelled['repeated']}, {labelled['repeated']}",
        "near-duplicates found": groups["near_duplicates"],
        "left out, by reason": ", ".join(f"{count} {why}" for why, count in labelled["rejected"].items()) or "none",
        "faces": labelled["faces"],
        "people (groups of alike faces)": groups["people"] if "embeddings" in labelled["labels"] else "not asked for",
        "train, validation, test": ", ".join(str(count) for count in splits.values()),
        "labels": ", ".join(labelled["labels"]),
        "terms": labelled["terms"],
    }
    table = "".join(f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items())
    return [
        "<h2>Photos without labels become training data</h2>",
        "<p>No label file was read. No group of alike faces and no photo is in two splits; groups can miss people.</p>",
        f"<table>{table}</table>",
        _image((folder / "labelled.png").read_bytes(), "Faces with landmarks, and the masks predicted for them"),
    ]


def _trio(served: dict[str, Any], folder: Path) -> str:
    pictures = "".join(
        f"<figure>{_tag((folder / served[kind]).read_bytes(), kind)}<figcaption>{label}</figcaption></figure>"
        for kind, label in LABELS.items()
    )
    faces = served["report"]["faces"]
    skipped = [item["reason"] for face in faces for item in face["skipped"]]
    note = f"{len(faces)} face(s), {served['milliseconds']} ms"
    if skipped:
        note += f"; skipped: {', '.join(skipped)}"
    return f"<div class=trio>{pictures}<p class=note>{html.escape(note)}</p></div>"


def _enhancement_table(report: dict[str, Any]) -> str:
    columns = {
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "colour_shift": "colour shift (of 255)",
        "perceptual_distance": "perceptual distance",
        "identity_distance": "dlib's distance",
    }
    columns = {name: label for name, label in columns.items() if name in report["metrics"]["all"]["model"]}
    rows = [
        f"<tr><td>{severity}</td><td>{method}</td>"
        + "".join(f"<td>{_interval(values[metric])}</td>" for metric in columns)
        + "</tr>"
        for severity in ("easy", "medium", "hard")
        for method, values in report["metrics"][severity].items()
        if method not in COMPARISONS
    ]
    labels = "".join(f"<th>{label}</th>" for label in columns.values())
    head = f"<tr><th>degradation</th><th>method</th>{labels}</tr>"
    return f"<h3>Enhancement, {report['photos']} photos, {report['model']}</h3><table>{head}{''.join(rows)}</table>"


def _parsing_table(report: dict[str, Any]) -> str:
    metrics = report["metrics"]
    regions = metrics["region_f1"].items()
    rows = "".join(f"<tr><td>{name}</td><td>{_interval(value)}</td></tr>" for name, value in regions)
    return (
        f"<h3>Parsing, {report['photos']} drawn faces, {report['model']}</h3>"
        f"<p>Mean F1 {_interval(metrics['mean_f1'])}. Results on drawn faces say nothing about photos.</p>"
        f"<table><tr><th>region</th><th>F1</th></tr>{rows}</table>"
    )


def _curves(run: Path) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), dpi=110, layout="constrained")
    for axes, system in zip(figure.subplots(1, 2), ("parsing", "enhancement"), strict=True):
        lines = [json.loads(line) for line in (run / system / "metrics.jsonl").read_text().splitlines()]
        for name in sorted({key for line in lines for key in line if key.startswith("loss/") and key != "loss/r1"}):
            points = [(line["step"], line[name]) for line in lines if name in line]
            axes.plot(*zip(*points, strict=True), label=name.removeprefix("loss/"))
        axes.set(title=system, xlabel="step", ylabel="loss")
        axes.legend()
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _samples(folder: Path) -> str:
    newest = sorted((folder / "samples").glob("*.png"))[-1]
    rows = {"parsing": "photo, true mask, found mask", "enhancement": "degraded, enhanced, clear"}[folder.name]
    return _image(newest.read_bytes(), f"{folder.name} at the last step; rows: {rows}")


def _commands(commands: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(ran['title'])}</td><td><code>{html.escape(ran['command'])}</code></td>"
        f"<td>{ran['seconds']} s</td></tr>"
        for ran in commands
    )
    return f"<table>{rows}</table>"


def _interval(value: dict[str, Any]) -> str:
    return f"{value['value']:.3g} <span class=note>({value['low']:.3g} to {value['high']:.3g})</span>"


def _image(data: bytes, caption: str) -> str:
    return f"<figure>{_tag(data, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _tag(data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
