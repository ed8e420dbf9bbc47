"""Evaluation reports for people: a table on the terminal."""

from collections.abc import Iterator
from typing import Any

from rayface.evaluation.card import show

# Parts of reports with an entry for each of many things; the table shows the figures over all of them.
DETAILS = ("attributes", "rare_attributes", "reliability")


def print_report(report: dict[str, Any]) -> None:
    """Print the main figures of `evaluate`'s report with their intervals, who judged and what could not be measured."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        Column("metric", overflow="fold"), "value", "95 % interval",
        title=f"{report['model']} on {report['photos']} photos of {report['split']} ({report['data_source']})",
    )  # fmt: skip
    main = {name: value for name, value in report["metrics"].items() if name not in DETAILS}
    for name, value in rows(main):
        if isinstance(value, dict):
            table.add_row(name, f"{value['value']:.4g}", f"{value['low']:.4g} to {value['high']:.4g}")
        else:
            table.add_row(name, f"{value:.4g}", "")
    console = Console(soft_wrap=True)
    console.print(table)
    for name in DETAILS:
        if entries := report["metrics"].get(name):
            console.print(f"{name}: {len(entries)} entries, in --json and --output FILE", highlight=False)
    if found := report["subgroups"]:
        columns = list(dict.fromkeys(metric for group in found["groups"].values() for metric in group))
        console.print(f"By group of people ({found['source']}):", highlight=False)
        groups = Table("group", *columns)
        for name, values in found["groups"].items():
            # without intervals, or it would not fit; --json has them
            groups.add_row(name, *(show(values.get(metric)).partition(" ")[0] for metric in columns))
        if columns:
            console.print(groups)
    for judge, digest in report["judges"].items():
        console.print(f"judge {judge}: sha256 {digest[:16]}", highlight=False)
    for metric, why in report["missing"].items():
        console.print(f"missing {metric}: {why}", highlight=False, markup=False)
    for note in report["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)


def rows(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, number or `{value, low, high}`) of nested metrics."""
    for name, value in metrics.items():
        if isinstance(value, dict) and not {"value", "low"} <= value.keys():
            yield from rows(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
