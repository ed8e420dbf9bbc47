"""The dashboards and rules of k8s/observability, and what they ask Prometheus for."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "k8s" / "observability"
DASHBOARDS = ("serving", "training")


def dashboard(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def panels(name: str) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def queries(name: str, window: str = "1m") -> list[tuple[str, str]]:
    """(panel's title, PromQL) as Grafana would send it: its variables replaced, rates over `window`."""
    found = []
    for panel in panels(name):
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", window)
            found.append((panel["title"], re.sub(r"\$(run|system)\b", ".*", query)))
    return found


def rules() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "rules.yml").read_text()))


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rules()["groups"] for rule in group["rules"]]


def names(text: str) -> set[str]:
    """The metrics in a PromQL expression: all that are asked for are Ray's or go through Ray."""
    return set(re.findall(r"\bray_[a-z_]+\b", text))


def tool(name: str) -> str:
    """The path of prometheus or promtool; the test is skipped where Prometheus is not installed."""
    found = shutil.which(name)
    if not found:
        pytest.skip("Prometheus is not installed (apt install prometheus)")
    return found


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *words], capture_output=True, text=True, cwd=ROOT)
