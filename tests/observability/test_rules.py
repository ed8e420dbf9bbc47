"""Alert rules and dashboards: promtool reads them, and every figure that they name is one that is told."""

import re
from pathlib import Path

import pytest
import yaml

from rayface.metrics import METRICS
from tests.observability.files import (
    DASHBOARDS,
    FOLDER,
    ROOT,
    alerts,
    dashboard,
    names,
    panels,
    promtool,
    queries,
    rules,
)

TESTS = Path(__file__).with_name("rules_test.yml")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
OURS = {name for metric in METRICS for name in metric.exported}
KINDS = {"timeseries", "table", "row"}  # of panels that Grafana 10 and later know without a plugin


def told(expression: str) -> set[str]:
    """The names in it that this code should tell."""
    return {name for name in names(expression) if name.startswith("ray_rayface_")}


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    for done in (
        promtool("check", "rules", str(FOLDER / "rules.yml")),
        promtool("check", "config", str(FOLDER / "prometheus.yml")),
    ):
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_before() -> None:
    done = promtool("test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_rule_is_found(tmp_path: Path) -> None:
    text = (FOLDER / "rules.yml").read_text()
    assert text.count("> 0.05\n") == 2
    (tmp_path / "rules.yml").write_text(text.replace("> 0.05\n", "> 0.5\n"))
    (tmp_path / "test.yml").write_text(TESTS.read_text().replace("../../k8s/observability/rules.yml", "rules.yml"))
    done = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode != 0
    assert "RayfaceErrors" in done.stdout + done.stderr


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    tried = TESTS.read_text()
    well = yaml.safe_load(tried)["tests"][0]
    for alert in alerts():
        name = alert["alert"]
        assert f'alertname="{name}"' in tried, f"no test in which {name} fires"
        assert names(alert["expr"]) <= names(str(well["input_series"])), f"{name} is not tried while all is well"
        assert alert["for"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert f"\n#### {name}\n" in OPERATIONS


def test_the_operators_rule_is_the_same() -> None:
    (made,) = yaml.safe_load_all((FOLDER / "prometheus-rule.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["spec"] == rules(), "copy the groups of rules.yml into prometheus-rule.yaml"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_promtool_takes_every_query_of_a_dashboard(name: str, tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": query} for number, (_, query) in enumerate(queries(name))]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": recorded}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_figure_that_is_asked_for_is_told_and_every_one_told_is_seen() -> None:
    asked = {query for name in DASHBOARDS for _, query in queries(name)} | {alert["expr"] for alert in alerts()}
    wanted = set().union(*map(told, asked))
    assert wanted <= OURS, f"nobody tells {sorted(wanted - OURS)}"
    unseen = [metric.name for metric in METRICS if not wanted & set(metric.exported)]
    assert unseen == [], "on no dashboard and in no alert"
    undocumented = [metric.name for metric in METRICS if f"`{metric.name.removeprefix('rayface_')}`" not in OPERATIONS]
    assert undocumented == [], "not in the table of docs/operations.md"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_one_that_grafana_loads(name: str) -> None:
    whole = dashboard(name)
    assert whole["uid"] == f"rayface-{name}"
    assert whole["schemaVersion"] >= 36
    variables = {variable["name"] for variable in whole["templating"]["list"]}
    ids = [panel["id"] for panel in whole["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in whole["panels"]:
        assert panel["type"] in KINDS
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    for panel in panels(name):
        assert panel["description"], f"{panel['title']} does not say what it shows"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            used = set(re.findall(r"\$\{?([a-z_]+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables
