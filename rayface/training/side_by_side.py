"""Several systems of one request as runs of their own at the same time, where the cluster has room for their groups.

Where it has not, `launch` trains them one after the other in one group of workers, whose start is then paid once. How a
run was started stays: a resumed one finds its checkpoints where it left them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rayface.errors import RayfaceError
from rayface.storage import open_filesystem
from rayface.systems.base import get_system
from rayface.training.request import TrainPlan, TrainRequest
from rayface.training.resumption import checkpoint_names


def groups_at_once(plan: TrainPlan) -> int:
    """How many groups of workers of this size the cluster holds; 1 where several systems share one group.

    A group that takes whole nodes (no `cpus_per_worker`, no GPUs) counts by nodes.
    """
    import ray

    request = plan.request
    if len(request.systems) < 2 or _has_checkpoints(request.run_folder):
        return 1
    total, workers = ray.cluster_resources(), request.workers[1]
    if request.gpu:
        room = total.get("GPU", 0) // workers
    elif request.cpus_per_worker:
        room = total.get("CPU", 0) // (workers * request.cpus_per_worker)
    else:
        room = len([node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0)]) // workers
    begun = any(_has_checkpoints(own_request(plan, name, {}).run_folder) for name in request.systems)
    return max(int(room), 2 if begun else 1)


def _has_checkpoints(folder: str) -> bool:
    return bool(checkpoint_names(*open_filesystem(folder)))


def own_request(plan: TrainPlan, name: str, finished: Mapping[str, str]) -> TrainRequest:
    """The request of one system alone, NAME-SYSTEM, with the models that it needs of those just trained."""
    request = plan.request
    needed = get_system(name).frozen_models(plan.config(name)).items()
    pinned = tuple(f"{name}.{key}={finished[model]}" for key, model in needed if model in finished)
    return dataclasses.replace(
        request, systems=(name,), name=f"{request.name}-{name}", overrides=(*request.overrides, *pinned),
        store=request.store_uri, data_of=tuple(own for own in request.data_of if own[0] == name),
    )  # fmt: skip


def waits_for(plan: TrainPlan, name: str) -> set[str]:
    """The systems of the plan that must be trained before this one."""
    system = get_system(name)
    return {*system.requires, *system.frozen_models(plan.config(name)).values()} & set(plan.request.systems) - {name}


def train_side_by_side(plan: TrainPlan, at_once: int) -> dict[str, Any]:
    """Train every system in a run of its own, at most `at_once` at a time, what another one needs before it.

    Returns what `launch.train` returns, with the metrics by system. Raises RayfaceError naming every system that
    failed, once the others are through: they keep their models, and the same request goes on with the rest.
    """
    import ray

    waiting = list(plan.request.systems)
    running: dict[Any, str] = {}
    results: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    while True:
        finished = {name: result["models"][name] for name, result in results.items()}
        for name in list(waiting):
            if waits_for(plan, name) & failures.keys():
                waiting.remove(name)
                failures[name] = "what it needs was not trained"
            elif len(running) < at_once and waits_for(plan, name) <= finished.keys():
                waiting.remove(name)
                running[_task().remote(own_request(plan, name, finished))] = name
        if not running:
            break
        (done,), _ = ray.wait(list(running), num_returns=1)
        name = running.pop(done)
        result, reason = ray.get(done)
        if reason:
            failures[name] = reason
        else:
            results[name] = result
    if failures:
        told = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        trained = ", ".join(result["models"][name] for name, result in results.items())
        kept = f" ({trained} is trained; the same command goes on)" if trained else ""
        raise RayfaceError(told + kept, kind="training-failed")
    request = plan.request
    return {
        "run": request.name,
        "storage": request.storage,
        "models": {name: results[name]["models"][name] for name in request.systems},
        "store": request.store_uri,
        "faces": {name: results[name]["faces"][name] for name in request.systems},
        "metrics": {name: results[name]["metrics"] for name in request.systems},
    }


def _task() -> Any:
    """A task that drives one run; its workers, not it, take the cluster's CPUs and GPUs."""
    import ray

    def drive(request: TrainRequest) -> tuple[dict[str, Any] | None, str]:
        from rayface.training.launch import train

        try:
            return train(request), ""
        except RayfaceError as error:
            return None, str(error)

    return ray.remote(num_cpus=0, max_retries=0)(drive)
