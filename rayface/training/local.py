"""Training in this process, without a worker group: what a Tune trial with one worker runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rayface.errors import RayfaceError
from rayface.storage import open_filesystem
from rayface.store import LoadedModel
from rayface.training.checkpoint import STATE_FILE
from rayface.training.launch import begin, save_model, with_trained
from rayface.training.loop import run
from rayface.training.progress import open_progress
from rayface.training.request import TrainPlan, TrainRequest, resolve
from rayface.training.workers import solo

# Called at every checkpoint with the step and the networks as they would be released now.
OnAverage = Callable[[int, Mapping[str, nn.Module]], None]


def train_here(
    request: TrainRequest, loaded: Mapping[str, LoadedModel] | None = None, on_average: OnAverage | None = None
) -> dict[str, Any]:
    """Train the systems of a request one after the other; resumes from what an interrupted call left.

    Checkpoints need a local folder: raises RayfaceError for storage at an address. `loaded` are models by reference
    that need not be read from a store.
    """
    plan = resolve(request)
    if "://" in plan.request.storage:
        raise RayfaceError(f"training in one process needs a local folder for checkpoints, not {request.storage}")
    _, folder = open_filesystem(plan.request.run_folder)
    models: dict[str, str] = {}
    for name in plan.request.systems:
        models[name] = _train_system(with_trained(plan, name, models), name, Path(folder) / name, loaded, on_average)
    return {"run": plan.request.name, "models": models, "store": plan.request.store_uri}


def _train_system(
    plan: TrainPlan, name: str, folder: Path, loaded: Mapping[str, LoadedModel] | None, on_average: OnAverage | None
) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    workers = solo("cuda" if plan.request.gpu else "cpu")
    training, dataset = begin(plan, name, workers, folder if (folder / STATE_FILE).exists() else None, loaded)
    progress = open_progress(plan, name, training.step)

    def on_checkpoint(step: int, metrics: dict[str, float], write: Callable[[Path], None] | None) -> None:
        if write is not None:
            write(folder)
        if on_average is not None:
            on_average(step, {name: training.average[name] for name in training.system.released})

    run(training, dataset, on_checkpoint, progress, str(folder))
    progress.close()
    return save_model(plan, training, dataset)
