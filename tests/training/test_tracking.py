"""Training that also logs to MLflow or Weights & Biases: what they are told, by stand-ins that write it down.

The packages are no dependencies. docs/operations.md says what was tried with the real ones.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rayface.errors import RayfaceError
from rayface.training.local import train_here
from rayface.training.progress import Progress
from rayface.training.request import TrainRequest, resolve
from rayface.training.tracking import flat, open_tracker

CONFIG = {"steps": 4, "adaptation": {"every": 2}}
Calls = list[tuple[Any, ...]]


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    class MlflowClient:
        def __init__(self, uri: str) -> None:
            calls.append(("server", uri))

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, experiment: str, run_name: str) -> Any:
            calls.append(("create", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="id-1"))

        def update_run(self, run: str, status: str) -> None:
            calls.append(("again", run, status))

        def log_param(self, run: str, key: str, value: str) -> None:
            calls.append(("param", run, key, value))

        def log_batch(self, run: str, metrics: list[Any]) -> None:
            calls.append(("log", run, *((one.key, one.value, one.step) for one in metrics)))

        def set_terminated(self, run: str, status: str) -> None:
            calls.append(("end", run, status))

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, step=step)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # so that it is taken back
    stand_in("mlflow", monkeypatch, MlflowClient=MlflowClient, entities=SimpleNamespace(Metric=metric))
    return calls


def test_mlflow_is_told_a_run_once_and_goes_on_with_it(mlflow: Calls, tmp_path: Path) -> None:
    folder = f"{tmp_path}/run"
    for first in (0, 1):
        tracker = open_tracker("mlflow", folder, "parsing", CONFIG)
        assert tracker is not None
        tracker.log(first, {"loss/parser": 0.5})
    tracker.close()
    server = ("server", f"sqlite:///{tmp_path}/mlflow.db")
    assert mlflow == [
        server,
        ("create", "7", "run/parsing"),
        ("param", "id-1", "steps", "4"),
        ("param", "id-1", "adaptation.every", "2"),
        ("log", "id-1", ("loss/parser", 0.5, 0)),
        server,
        ("again", "id-1", "RUNNING"),
        ("log", "id-1", ("loss/parser", 0.5, 1)),
        ("end", "id-1", "FINISHED"),
    ]


def test_a_server_is_used_where_it_is_named(mlflow: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RayfaceError, match="set MLFLOW_TRACKING_URI"):
        open_tracker("mlflow", "s3://bucket/runs/run", "parsing", CONFIG)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    open_tracker("mlflow", f"{tmp_path}/run", "parsing", CONFIG)
    assert mlflow[0] == ("server", "http://tracking:5000")


def test_wandb_stays_on_this_machine_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append(("log", values, step)), finish=lambda: calls.append(("end",))
    )

    def init(**options: Any) -> Any:
        calls.append(("init", options))
        return run

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    stand_in("wandb", monkeypatch, init=init)
    for mode in ("offline", "online"):
        tracker = open_tracker("wandb", f"{tmp_path}/run", "parsing", CONFIG)
        assert tracker is not None
        tracker.log(3, {"loss/parser": 0.5})
        tracker.close()
        (_, options), *rest = calls
        assert rest == [("log", {"loss/parser": 0.5}, 3), ("end",)]
        assert (options["mode"], options["resume"], options["name"]) == (mode, "allow", "run/parsing")
        assert options["config"] == flat(CONFIG) == {"steps": 4, "adaptation.every": 2}
        assert options["dir"] == str(tmp_path)
        monkeypatch.setenv("WANDB_MODE", "online")
        first, calls[:] = options, []
    assert options["id"] == first["id"], "the same run"


def test_a_training_tells_its_tracker_what_it_logs(mlflow: Calls, drawn_faces: str, tmp_path: Path) -> None:
    request = TrainRequest(
        ("parsing",), drawn_faces, preset="tiny", storage=str(tmp_path), name="run", track="mlflow",
        overrides=("steps=3",),
    )  # fmt: skip
    train_here(request)
    logged = [call for call in mlflow if call[0] == "log"]
    assert [call[2][2] for call in logged] == [0, 1, 2]
    assert "loss/parser" in {key for key, _, _ in logged[0][2:]}
    assert mlflow[-1] == ("end", "id-1", "FINISHED")
    assert (tmp_path / "run" / "parsing" / "tensorboard").is_dir(), "as always"


def test_a_tracker_that_fails_ends_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []

    class Broken:
        def log(self, step: int, values: object) -> None:
            told.append(step)
            raise ConnectionError("the server is away")

        def close(self) -> None:
            raise AssertionError("it is over")

    progress = Progress(f"{tmp_path}/run", "parsing", 0, Broken())
    for step in range(2):
        progress.log(step, 2, 8, {"loss/parser": 0.5})
    progress.close()
    assert told == [0]
    assert "--track failed (log) and is over: the server is away" in capsys.readouterr().out
    assert len((tmp_path / "run" / "parsing" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_cannot_be_closed_ends_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Unclosed:
        def log(self, step: int, values: object) -> None: ...

        def close(self) -> None:
            raise ConnectionError("the server went away")

    progress = Progress(f"{tmp_path}/run", "parsing", 0, Unclosed())
    progress.log(0, 1, 8, {"loss/parser": 0.5})
    progress.close()
    assert "--track failed (close) and is over: the server went away" in capsys.readouterr().out


def test_what_cannot_be_tracked_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RayfaceError, match="--track 'comet': give one of: mlflow, wandb"):
        resolve(TrainRequest(("parsing",), "nowhere", track="comet"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RayfaceError, match="pip install wandb, on every node"):
        resolve(TrainRequest(("parsing",), "nowhere", track="wandb"))
