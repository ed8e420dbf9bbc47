"""A run's figures in MLflow or Weights & Biases too, where a user asks (`--track`); TensorBoard is always written.

Neither package is a dependency: it is imported only when asked for. Without a server that its own variables name
(MLFLOW_TRACKING_URI; WANDB_MODE=online) figures stay on this machine's disks: no network is used. Only rank 0 has a
tracker. A run that goes on keeps its place there by an identifier beside its logs. Neither can take figures back: of
steps that are done again since the last checkpoint MLflow shows both values, Weights & Biases the first.
"""

import importlib
import importlib.util
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes

PROJECT = "rayface"
# Both send what they find out about their use to their makers unless told not to.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
LONGEST = 500  # characters of a parameter that MLflow keeps


class Tracker(Protocol):
    """Where figures go. `close` says that the run was trained to its end; one that broke off can go on."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_tracker(name: str) -> None:
    """Raises RayfaceError for a tracker that there is not, or that is not installed here."""
    if name and name not in TRACKERS:
        raise RayfaceError(f"--track {name!r}: give one of: {', '.join(TRACKERS)}")
    if name and importlib.util.find_spec(name) is None:
        raise RayfaceError(f"--track {name}: the package is not installed here; pip install {name}, on every node")


def open_tracker(name: str, run_folder: str, system: str, config: Mapping[str, Any]) -> Tracker | None:
    """The tracker `name` of one system's training; None for "".

    `run_folder`: STORAGE/RUN, also an address; `config`: the system's whole configuration, as plain values. Raises
    RayfaceError as `check_tracker`, and for MLflow without a server where STORAGE is an address.
    """
    check_tracker(name)
    if not name:
        return None
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    tracker: Tracker = TRACKERS[name](run_folder, system, config)
    return tracker


class MLflow:
    """A run of the experiment `rayface` on the server of MLFLOW_TRACKING_URI, else in STORAGE/mlflow.db."""

    def __init__(self, run_folder: str, system: str, config: Mapping[str, Any]) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        storage, _, run = run_folder.rpartition("/")
        server = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not server and "://" in storage:
            raise RayfaceError(f"--track mlflow: set MLFLOW_TRACKING_URI to a server; {storage} holds no database")
        self._client = mlflow.MlflowClient(server or f"sqlite:///{storage}/mlflow.db")
        self._entities = mlflow.entities
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._run = read_identifier(run_folder, system, "mlflow")
        if self._run:
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(number, run_name=f"{run}/{system}").info.run_id
        keep_identifier(run_folder, system, "mlflow", self._run)
        for key, value in flat(config).items():
            self._client.log_param(self._run, key, str(value)[:LONGEST])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        figures = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=figures)

    def close(self) -> None:
        self._client.set_terminated(self._run, "FINISHED")


class WeightsAndBiases:
    """A run of the project `rayface`, kept in STORAGE/wandb until `wandb sync`, or sent where WANDB_MODE is online."""

    def __init__(self, run_folder: str, system: str, config: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        storage, _, run = run_folder.rpartition("/")
        identifier = read_identifier(run_folder, system, "wandb")
        if not identifier:
            identifier = uuid.uuid4().hex
            keep_identifier(run_folder, system, "wandb", identifier)
        self._run = wandb.init(
            project=PROJECT, name=f"{run}/{system}", id=identifier, resume="allow", config=flat(config),
            mode=os.environ.get("WANDB_MODE", "offline"), dir=None if "://" in storage else storage,
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Any] = {"mlflow": MLflow, "wandb": WeightsAndBiases}


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"adaptation": {"every": 5}} -> {"adaptation.every": 5}."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return values


def read_identifier(run_folder: str, system: str, tracker: str) -> str:
    """The run's name at a tracker, from when it began; "" where it did not."""
    filesystem, folder = open_filesystem(run_folder)
    try:
        with filesystem.open_input_stream(f"{folder}/{system}/{tracker}-run") as stream:
            return str(stream.read().decode())
    except FileNotFoundError:
        return ""


def keep_identifier(run_folder: str, system: str, tracker: str, identifier: str) -> None:
    filesystem, folder = open_filesystem(run_folder)
    write_bytes(identifier.encode(), f"{folder}/{system}/{tracker}-run", filesystem)
