"""A multi-objective search with Ray Tune and Optuna: trials train and evaluate a system, the front is kept."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rayface.errors import RayfaceError
from rayface.ray_session import connect
from rayface.storage import absolute
from rayface.training.request import TrainRequest, check_storage, resolve, training_split
from tune.results import write_results


@dataclass(frozen=True)
class Objective:
    metric: str
    mode: Literal["max", "min"]


@dataclass(frozen=True)
class Search:
    """What is searched: config keys of a system and their ranges, and what a trial is judged by."""

    name: str
    system: str
    space: Callable[[], dict[str, Any]]
    known: tuple[dict[str, Any], ...]  # settings to try first
    objectives: tuple[Objective, ...]
    metrics: Callable[[dict[str, Any]], dict[str, float]]  # from the system's evaluation report


@dataclass(frozen=True)
class SearchRequest:
    data: str
    trials: int
    preset: str = "small"
    overrides: tuple[str, ...] = ()
    storage: str = "runs"
    name: str = "search"
    resume: bool = False
    workers: int = 1
    gpu: bool = False
    concurrent: int = 0
    limit: int = 0
    seed: int = 0


def search(wanted: Search, request: SearchRequest) -> dict[str, Any]:
    """Run or resume a search; returns what `pareto.json` holds.

    Raises RayfaceError: bad settings (before anything starts), nothing to resume, no trial that succeeded.
    """
    import ray
    from ray import tune

    if request.trials < 1:
        raise RayfaceError(f"--trials {request.trials}: give at least 1")
    request = dataclasses.replace(request, storage=absolute(request.storage), data=absolute(request.data))
    plan = resolve(_train_request(wanted, request, {}, "check"))
    training_split(plan, wanted.system)
    check_storage(request.storage)
    connect()
    if request.gpu and ray.cluster_resources().get("GPU", 0) < request.workers:
        raise RayfaceError(f"--gpu with {request.workers} workers a trial, but this cluster has too few GPUs for one")
    folder = f"{request.storage}/{request.name}"
    trainable = _trainable(wanted, request)
    if request.resume:
        if not tune.Tuner.can_restore(folder):
            raise RayfaceError(f"there is no search to resume in {folder}; leave --resume out to start one")
        tuner = tune.Tuner.restore(folder, trainable, resume_errored=True, param_space=wanted.space())
    else:
        if tune.Tuner.can_restore(folder):
            raise RayfaceError(f"{folder} already holds a search; go on with it by --resume, or choose another --name")
        tuner = tune.Tuner(
            trainable,
            param_space=wanted.space(),
            tune_config=_tune_config(wanted, request),
            run_config=tune.RunConfig(name=request.name, storage_path=request.storage, verbose=1),
        )
    results = tuner.fit()
    return write_results(wanted, results, folder)


def _tune_config(wanted: Search, request: SearchRequest) -> Any:
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher = OptunaSearch(
        metric=[objective.metric for objective in wanted.objectives],
        mode=[objective.mode for objective in wanted.objectives],
        points_to_evaluate=list(wanted.known[: request.trials]),
        seed=request.seed,
    )
    return tune.TuneConfig(
        search_alg=searcher,
        num_samples=request.trials,
        max_concurrent_trials=request.concurrent or _fitting(request),
        trial_dirname_creator=_folder_name,
    )


def _folder_name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"


def _fitting(request: SearchRequest) -> int:
    """How many trials the cluster's CPUs (or GPUs) hold at once."""
    import ray

    total = ray.cluster_resources()
    if request.gpu:
        return max(1, int(total.get("GPU", 0) // request.workers))
    driver = 0 if request.workers == 1 else 1  # a trial with workers of its own holds a CPU besides
    return max(1, int(total.get("CPU", 1) // (request.workers + driver)))


def _trainable(wanted: Search, request: SearchRequest) -> Any:
    from ray import tune

    def trial(chosen: dict[str, Any]) -> None:
        from ray import tune

        logging.getLogger("ray.train").setLevel(logging.WARNING)
        name = f"trial-{tune.get_context().get_trial_id()}"
        tune.report(run_trial(wanted, request, chosen, name))

    resources = {"CPU": 1.0} | ({"GPU": 1.0} if request.gpu and request.workers == 1 else {})
    return tune.with_resources(trial, resources)


def run_trial(wanted: Search, request: SearchRequest, chosen: Mapping[str, Any], name: str) -> dict[str, float]:
    """Train with the chosen settings and evaluate on the validation split, never on test."""
    import time

    from rayface.evaluation.evaluate import evaluate
    from rayface.store import ModelStore
    from rayface.training.launch import train
    from rayface.training.local import train_here

    started = time.perf_counter()
    train_request = _train_request(wanted, request, chosen, name)
    done = train(train_request) if request.workers > 1 else train_here(train_request)
    trained = time.perf_counter()
    device = "cuda" if request.gpu else "cpu"
    store = ModelStore(done["store"])
    limit = request.limit or None
    report = evaluate(wanted.system, request.data, store, None, "validation", limit, device, judged=False)
    return {
        **wanted.metrics(report["metrics"]),
        "train_seconds": round(trained - started, 2),
        "evaluate_seconds": round(time.perf_counter() - trained, 2),
    }


def _train_request(wanted: Search, request: SearchRequest, chosen: Mapping[str, Any], name: str) -> TrainRequest:
    folder = f"{request.storage}/{request.name}/models"
    return TrainRequest(
        systems=(wanted.system,),
        data=request.data,
        preset=request.preset,
        workers=(request.workers, request.workers),
        gpu=request.gpu,
        storage=folder,
        name=name,
        store=f"{folder}/{name}/store",
        overrides=(*request.overrides, *(f"{key}={value}" for key, value in chosen.items())),
        cpus_per_worker=1,
    )
