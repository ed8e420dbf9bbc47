"""Gauges are told again while their process lives: Ray forgets one that is not set for 20 s."""

import time

import pytest
import ray

from rayface import metrics
from rayface.metrics import METRICS, Metric


class Recorded:
    """In the place of Ray's own object."""

    def __init__(self) -> None:
        self.set_to: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.set_to.append((value, tags))


def test_a_gauge_is_set_again_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics, "REPEAT_SECONDS", 0.01)
    monkeypatch.setattr(metrics, "_kept", metrics._Kept())
    gauge, made = Metric("gauge", "rayface_made_up", "", ("run", "system")), Recorded()
    vars(gauge)["_made"] = made
    gauge.record(1.0, run="a", system="parsing")
    gauge.record(2.0, run="a", system="parsing")
    gauge.record(3.0, run="b", system="parsing")
    deadline = time.monotonic() + 10
    while len(made.set_to) < 9:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    later = [(value, tags["run"]) for value, tags in made.set_to[3:]]
    assert set(later) == {(2.0, "a"), (3.0, "b")}, "the last value of each"
    gauge.forget(run="a")
    made.set_to.clear()
    while len(made.set_to) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert {tags["run"] for _, tags in made.set_to[1:]} == {"b"}
    gauge.forget()


def test_names_and_labels_are_prometheus_own_way() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("rayface_")
        assert not metric.name.endswith("_total"), "Ray adds it to counters"
        assert metric.help
        assert (metric.kind == "histogram") == bool(metric.boundaries)
        assert list(metric.boundaries) == sorted(metric.boundaries)
