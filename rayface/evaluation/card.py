"""Model cards: README.md of a stored model, written from its config.json and the report of `rayface evaluate`.

No figure is typed by hand: what it was trained on, its terms, its metrics with intervals beside the baselines of the
same run, by group of people, and who judged, all come from those two. `about` adds what only its maker knows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rayface.terms import commercial_use

Leaf = float | Mapping[str, Any]


def model_card(info: Mapping[str, Any], report: Mapping[str, Any] | None = None, about: str = "") -> str:
    """The card in Markdown. `info`: config.json; `report`: see `evaluation.evaluate`; `about`: Markdown."""
    ref = f"{info['name']}@{info['version']}"
    parts = [f"# {ref}", about.strip(), "## What it is", _facts(info)]
    if report is None:
        parts += ["## Measured", "Nothing yet."]
    else:
        parts += ["## Measured", _measured_on(report), *tables(report["metrics"])]
        parts += ["## By group of people", *_groups(report), "## Limits", _limits(report)]
        if report.get("judges"):
            rows = [[name, f"`{digest[:16]}`"] for name, digest in report["judges"].items()]
            parts += ["## Judges", _table(["judge", "sha256"], rows)]
    parts += ["## Repeat it", "```\n" + "\n".join(_commands(info, report)) + "\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(info: Mapping[str, Any]) -> str:
    data, config = info.get("data") or {}, info.get("config") or {}
    facts = {
        "system": info["system"],
        "networks": ", ".join(info.get("networks", {})),
        "parameters": f"{info['parameters']:,}" if "parameters" in info else "",
        "crops": f"{config['size']} px" if "size" in config else "",
        "stored as": f"{info.get('dtype', '')}, sha256 `{info.get('sha256', '')}`",
        "trained on": f"{data['faces']} faces ({data['format']}), data digest `{data['digest'][:16]}`" if data else "",
        "steps": info.get("steps", ""),
        "began as": info.get("init", ""),
        "source": info["source"]["file"] if isinstance(info.get("source"), Mapping) else info.get("source", ""),
        "licence": info.get("licence", "unstated"),
        "terms": info.get("terms") or "not stated",
        "commercial use": {True: "allowed", False: "not allowed"}.get(commercial_use(info), "not stated"),  # type: ignore[arg-type]
    }
    return _table(["", ""], [[name, str(value)] for name, value in facts.items() if value not in ("", None)])


def _measured_on(report: Mapping[str, Any]) -> str:
    return (
        f"{report['photos']} photos of the {report['split']} split ({report['data_source']}, data digest "
        f"`{report['data'][:16]}`), on the weights as stored. In brackets 95 % bootstrap intervals over "
        f"{' or '.join(_drawn(report['metrics'])) or 'photos'}."
    )


def _drawn(metrics: Mapping[str, Any]) -> list[str]:
    """What the bootstrap of these metrics drew: photos, people (of pairs), or both."""
    if _is_interval(metrics):
        return [unit for unit in ("photos", "people") if unit in metrics]
    found = {unit for value in metrics.values() if isinstance(value, Mapping) for unit in _drawn(value)}
    return sorted(found, reverse=True)


def tables(metrics: Mapping[str, Any], title: str = "") -> Iterator[str]:
    """Nested metrics as Markdown tables.

    Where a dict holds a `model` beside baselines, all that have the model's metrics are columns; other dicts of alike
    dicts share a table too; single figures stand above.
    """
    single = [[name, show(value)] for name, value in metrics.items() if _is_leaf(value)]
    alike = {name: value for name, value in metrics.items() if not _is_leaf(value) and _holds_leaves(value)}
    deeper = {name: value for name, value in metrics.items() if not _is_leaf(value) and name not in alike}
    if "model" in alike:
        beside = {name: child for name, child in alike.items() if child.keys() & alike["model"].keys()}
        deeper |= {name: child for name, child in alike.items() if name not in beside}
    else:
        beside = alike
    body = [_table(["metric", "value"], single) if single else "", _together(beside) if beside else ""]
    if any(body):
        if title:
            yield f"### {title}"
        yield from (part for part in body if part)
    for name, value in deeper.items():
        if isinstance(value, Mapping) and value:
            yield from tables(value, f"{title}, {name}" if title else name)


def _together(groups: Mapping[str, Mapping[str, Leaf]]) -> str:
    """Alike dicts in one table, the longer side downwards; where they share no metric, one row a figure."""
    metrics = list(dict.fromkeys(metric for child in groups.values() for metric in child))
    shared = set.intersection(*(set(child) for child in groups.values()))
    if not shared or len(groups) == 1:
        figures = [(name, *figure) for name, child in groups.items() for figure in child.items()]
        return _table(["metric", "value"], [[f"{name}, {metric}", show(value)] for name, metric, value in figures])
    if "model" in groups or len(metrics) > len(groups):
        rows = [[metric, *(show(child.get(metric)) for child in groups.values())] for metric in metrics]
        return _table(["", *groups], rows)
    return _table(["", *metrics], [[name, *(show(child.get(m)) for m in metrics)] for name, child in groups.items()])


def show(value: Leaf | None) -> str:
    """A figure with its interval; what is no number is "-"."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return str(value) if isinstance(value, (str, int)) else _number(value)
    return f"{_number(value['value'])} ({_number(value['low'])} to {_number(value['high'])})"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, Mapping) or _is_interval(value)


def _is_interval(value: Mapping[str, Any]) -> bool:
    return {"value", "low", "high"} <= value.keys()


def _holds_leaves(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(_is_leaf(child) for child in value.values())


def _groups(report: Mapping[str, Any]) -> list[str]:
    found = report.get("subgroups")
    if not found:
        own = "subgroups" in report["metrics"]
        return ["See the table `subgroups` above." if own else "Not measured: this report has no figures per photo."]
    if not found["groups"]:
        return [f"Not measured: {found['source']}."]
    return [f"Groups by {found['source']}.", _together(found["groups"])]


def _limits(report: Mapping[str, Any]) -> str:
    """What the report itself shows to be limited."""
    lines = [
        f"- Measured on {report['photos']} photos of {report['data_source']}: other photos, cameras and people may "
        "fare differently, and the intervals speak of photos like these only."
    ]
    lines += [f"- `{metric}` is missing: {why}" for metric, why in report.get("missing", {}).items()]
    lines += [f"- {note}" for note in report.get("notes", [])]
    return "\n".join(lines)


def _commands(info: Mapping[str, Any], report: Mapping[str, Any] | None) -> list[str]:
    ref = f"{info['name']}@{info['version']}"
    commands = [str(info["command"])] if info.get("command") else []
    if report is not None:
        limit = f" --limit {report['limit']}" if report.get("limit") else ""
        commands.append(f"rayface evaluate {info['system']} --data DIR --model {ref} --split {report['split']}{limit}")
    return commands or [f"rayface models show {ref}"]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
