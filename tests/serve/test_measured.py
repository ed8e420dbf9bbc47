"""What is counted of photos: every reason of a report has its word, and nothing is recorded where no Ray runs."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from rayface import metrics, stages
from rayface.errors import RayfaceError
from rayface.metrics import Metric
from rayface.work import FaceReport, Params
from serve import measured
from serve.problems import Overloaded

Told = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What would be recorded."""
    found: Told = []
    monkeypatch.setattr(Metric, "record", lambda self, value, **tags: found.append((self.name, value, tags)))
    return found


def counts(told: Told, metric: Metric) -> dict[str, float]:
    """Sums of a metric by its only label, or "" where it has none."""
    found: Counter[str] = Counter()
    for name, value, tags in told:
        if name == metric.name:
            found[next(iter(tags.values()), "")] += value  # type: ignore[assignment]
    return dict(found)


def face(skipped: Sequence[str] = (), similarity: float | None = None, kept: float = 1.0) -> dict[str, Any]:
    reasons = [{"step": "enhance", "reason": reason} for reason in skipped]
    return {"skipped": reasons, "similarity": similarity, "kept": kept}


def report(faces: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    return {"faces": faces, "changed": 1, "steps": ["enhance"], "width": 320, "input_width": 320, **values}


def test_a_report_becomes_figures(told: Told) -> None:
    identity = "identity: the recogniser no longer saw the same person (similarity 0.1, below 0.4)"
    faces = [face(similarity=0.9), face(similarity=0.5, kept=0.5), face([identity], similarity=-0.2, kept=0.0), face()]
    measured.report(report(faces), Params())
    assert counts(told, metrics.FACES_FOUND) == {"": 4}
    assert counts(told, metrics.FACES_CHANGED) == {"": 1}
    assert counts(told, metrics.GUARD_FACES) == {"passed": 1, "blended": 1, "undone": 1}
    assert counts(told, metrics.FACES_SKIPPED) == {"identity": 1}
    assert [value for name, value, _ in told if name == metrics.GUARD_SIMILARITY.name] == [0.9, 0.5, 0.0]
    assert counts(told, metrics.RESULTS_REDUCED) == {}


@pytest.mark.parametrize(("width", "reduced"), [(640, {}), (320, {"": 1})])
def test_a_result_smaller_than_asked_is_counted(told: Told, width: int, reduced: dict[str, int]) -> None:
    measured.report(report([], steps=["upscale"], width=width), Params(scale=2))
    assert counts(told, metrics.RESULTS_REDUCED) == reduced


def test_every_reason_of_a_report_has_a_word() -> None:
    faces = [FaceReport([0, 0, size, size], [], 1.0, size) for size in (9.0, 8.0, 7.0)]
    given = [
        stages._left_alone(faces, Params(), 1.0, max_faces=2)[0][2],
        stages._left_alone(faces, Params(faces="largest"), 1.0, max_faces=2)[0][2],
        stages._left_alone(faces, Params(faces="boxes", boxes=((50, 50, 60, 60),)), 1.0, max_faces=2)[0][0],
    ]
    assert [measured.reason_word(reason) for reason in given] == ["max_faces", "not_largest", "not_in_boxes"]
    source = stages.__loader__.get_source(stages.__name__)  # type: ignore[union-attr]
    for start in ("the face is already sharper", "the step changed nothing", "strength is 0"):
        assert f'"{start}' in source, "the text of the stages"
        assert measured.reason_word(start) != "other"
    assert measured.reason_word("a new reason") == "other"


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, "done"),
        (Overloaded(2), "refused"),
        (RayfaceError("x", status=422), "rejected"),
        (RayfaceError("x", status=504), "failed"),
        (ValueError("x"), "failed"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_what_becomes_of_a_photo_is_counted(told: Told, error: BaseException | None, result: str) -> None:
    def work() -> None:
        with measured.photo("process"):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert told[0] == ("rayface_photos", 1, {"way": "process", "result": result})
    assert (len(told) == 2) == (result == "done"), "seconds of those that were done"


def test_a_model_that_is_no_longer_served_has_no_share(told: Told) -> None:
    measured.served("enhance", "enhancement@1", "enhancement@1=0.5, /models/mine/newer=0.5", "")
    measured.served("enhance", "enhancement@1=0.5, /models/mine/newer=0.5", "enhancement@2", "")
    shares = [(tags["model"], tags["version"], value) for name, value, tags in told if name == "rayface_model_share"]
    assert shares == [
        ("enhancement", "1", 0.5), ("newer", "", 0.5), ("enhancement", "1", 0.0), ("newer", "", 0.0),
        ("enhancement", "2", 1.0),
    ]  # fmt: skip


def test_without_ray_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metric = Metric("gauge", "rayface_nowhere", "never made", ("stage",))
    metric.record(1.0, stage="x")
    assert "_made" not in vars(metric)
