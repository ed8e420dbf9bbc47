"""A multi-objective search with Ray Tune and Optuna: trials train and evaluate a system, the front is kept."""

import copy
import dataclasses
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.ray_session import connect
from rayface.storage import absolute, open_filesystem, write_bytes
from rayface.systems.base import Networks, get_system
from rayface.training.request import TrainPlan, TrainRequest, check_storage, resolve, training_split
from tune.budget import begin_budget, within_minutes
from tune.definition import Search, SearchRequest
from tune.results import write_results

if TYPE_CHECKING:
    from rayface.store import LoadedModel


SEARCH_FILE = "search.json"  # in the search's folder: how it was started


def search(wanted: Search, request: SearchRequest) -> dict[str, Any]:
    """Run or resume a search; returns what `pareto.json` holds.

    Raises RayfaceError: bad settings (before anything starts), another search of that name, no trial that succeeded.
    """
    from ray import tune

    _check(wanted, request)
    request = dataclasses.replace(request, storage=absolute(request.storage), data=absolute(request.data))
    plan = _plan(wanted, request)
    digest = training_split(plan, wanted.system).digest
    FaceDataset(request.data, "validation", plan.config(wanted.system).size, get_system(wanted.system).labels)
    check_storage(request.storage)
    identity = _identity(wanted, request, digest)
    connect()
    _check_room(request)
    folder = f"{request.storage}/{request.name}"
    trainable = _trainable(wanted, request)
    held = tune.Tuner.can_restore(folder)
    if held and not request.resume:
        raise RayfaceError(f"{folder} already holds a search; go on with it by --resume, or choose another --name")
    if held:
        _check_same(identity, folder)
        tuner = tune.Tuner.restore(folder, trainable, resume_errored=True, param_space=wanted.space())
    else:
        filesystem, path = open_filesystem(folder)
        write_bytes(json.dumps(identity, indent=1).encode(), f"{path}/{SEARCH_FILE}", filesystem)
        tuner = tune.Tuner(
            trainable,
            param_space=wanted.space(),
            tune_config=_tune_config(wanted, request),
            run_config=tune.RunConfig(name=request.name, storage_path=request.storage, verbose=1),
        )
    begin_budget()
    results = tuner.fit()
    return write_results(wanted, results, folder, kept_settings(wanted, request))


def _check(wanted: Search, request: SearchRequest) -> None:
    for option, value, least in (
        ("trials", request.trials, 1), ("workers", request.workers, 1), ("limit", request.limit, 0),
        ("concurrent", request.concurrent, 0),
    ):  # fmt: skip
        if value < least:
            raise RayfaceError(f"--{option} {value}: give at least {least}")
    if request.workers == 1 and "://" in request.storage:
        raise RayfaceError(
            f"--storage {request.storage}: trials of one worker keep checkpoints in a local folder; give one"
        )
    if request.asha and not wanted.score:
        raise RayfaceError(
            f"--asha stops trials by one score, and the search {wanted.name} weighs "
            f"{' against '.join(objective.metric for objective in wanted.objectives)}; leave it out"
        )
    if not request.minutes >= 0:
        raise RayfaceError(f"--minutes {request.minutes}: give at least 0, which is no limit")
    if request.asha and request.workers > 1:
        raise RayfaceError("--asha stops trials of one worker; leave it out, or --workers")


def _check_room(request: SearchRequest) -> None:
    """Refuse trials that would wait for ever; a cluster that RAY_ADDRESS names may grow."""
    import ray

    if "RAY_ADDRESS" in os.environ:
        return
    total = ray.cluster_resources()
    for kind, needed in _needed(request).items():
        if total.get(kind, 0) < needed:
            raise RayfaceError(
                f"--workers {request.workers}{' --gpu' * request.gpu}: a trial takes {needed} {kind}s and this machine "
                f"has {int(total.get(kind, 0))}; use fewer workers, or set RAY_ADDRESS to a cluster that has them"
            )


def _needed(request: SearchRequest) -> dict[str, int]:
    """What one trial takes of the cluster; one with workers of its own holds a CPU besides."""
    cpus = 1 if request.workers == 1 else request.workers + 1
    return {"CPU": cpus} | ({"GPU": request.workers} if request.gpu else {})


def _identity(wanted: Search, request: SearchRequest, digest: str) -> dict[str, Any]:
    """What must be the same when a search goes on."""
    return {
        "search": wanted.name, "init": wanted.init, "data": digest, "--trials": request.trials,
        "--preset": request.preset, "--set": list(request.overrides), "--workers": request.workers,
        "--gpu": request.gpu, "--limit": request.limit, "--seed": request.seed, "--asha": request.asha,
    }  # fmt: skip


def _check_same(identity: dict[str, Any], folder: str) -> None:
    filesystem, path = open_filesystem(folder)
    with filesystem.open_input_stream(f"{path}/{SEARCH_FILE}") as stream:
        started = json.loads(stream.read())
    for key, value in identity.items():
        if started.get(key) != value:
            raise RayfaceError(
                f"the search in {folder} was started with {key} {started.get(key)}, not {value}; go on with it as it "
                "was started, or start another --name"
            )


def kept_settings(wanted: Search, request: SearchRequest) -> dict[str, str]:
    """Those of the request's settings that belong to what is searched, such as pruning.round_to, by key."""
    searched = {key.split(".")[0] for key in wanted.settings(wanted.known[0])}
    assignments = [assignment.split("=", 1) for assignment in request.overrides]
    return {key.strip(): value for key, value in assignments if key.strip().split(".")[0] in searched}


def _tune_config(wanted: Search, request: SearchRequest) -> Any:
    """Optuna with all objectives; with ASHA by the score alone, as a trial is stopped by one number."""
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    modes: list[str] = [objective.mode for objective in wanted.objectives]
    known = list(wanted.known[: request.trials])
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of the sampler's two options
    searcher = within_minutes(
        OptunaSearch,
        request.minutes,
        metric=wanted.score if request.asha else [objective.metric for objective in wanted.objectives],
        mode="max" if request.asha else modes,
        points_to_evaluate=known,
        sampler=optuna.samplers.TPESampler(
            # trials are dear: two random ones beside the known, where Optuna would take ten
            n_startup_trials=len(known) + 2,
            multivariate=True,
            constant_liar=True,
            seed=request.seed,
        ),
    )
    scheduler = None
    if request.asha:
        config = _plan(wanted, request).config(wanted.system)
        scheduler = ASHAScheduler(
            time_attr="step", metric=wanted.score, mode="max", max_t=config.steps,
            grace_period=min(config.checkpoint_every, config.steps), reduction_factor=2,
        )  # fmt: skip
    return tune.TuneConfig(
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=request.trials,
        max_concurrent_trials=request.concurrent or _fitting(request),
        trial_dirname_creator=_folder_name,
    )


def _plan(wanted: Search, request: SearchRequest) -> TrainPlan:
    return resolve(_train_request(wanted, request, {}, "check"))


def _folder_name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"


def _fitting(request: SearchRequest) -> int:
    """How many trials the cluster holds at once."""
    import ray

    total = ray.cluster_resources()
    return max(1, min(int(total.get(kind, 0) // needed) for kind, needed in _needed(request).items()))


def _trainable(wanted: Search, request: SearchRequest) -> Any:
    import ray
    from ray import tune

    # the model to start from and the teachers: read once, every trial takes them from the object store
    shared = ray.put(_load(wanted, request)) if request.workers == 1 else None

    def trial(chosen: dict[str, Any]) -> None:
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        name = f"trial-{tune.get_context().get_trial_id()}"
        report = tune.report if request.asha else None
        final = run_trial(wanted, request, chosen, name, ray.get(shared) if shared else None, report)
        if report is None:
            tune.report(final)

    resources = {"CPU": 1.0} | ({"GPU": 1.0} if request.gpu and request.workers == 1 else {})
    return tune.with_resources(trial, resources)


def _load(wanted: Search, request: SearchRequest) -> dict[str, "LoadedModel"]:
    """Every stored model that a trial needs, by reference."""
    from rayface.pretrained import is_pretrained
    from rayface.store import open_store

    plan = _plan(wanted, request)
    asked = get_system(wanted.system).frozen_models(plan.config(wanted.system)).values()
    references = {ref for ref in (plan.request.init, *asked) if ref and not is_pretrained(ref)}
    store = open_store(plan.request.store_uri)
    return {ref: store.load(ref) for ref in references}


def run_trial(
    wanted: Search, request: SearchRequest, chosen: Mapping[str, Any], name: str,
    loaded: Mapping[str, "LoadedModel"] | None = None, report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train with the chosen settings and evaluate on the validation split, never on test.

    With `report` every checkpoint is evaluated and reported, which may end the trial.
    """
    from rayface.store import ModelStore
    from rayface.training.launch import train
    from rayface.training.local import train_here

    started, judging, reported = time.perf_counter(), 0.0, 0
    train_request = _train_request(wanted, request, chosen, name)

    def judge(step: int, networks: Networks) -> dict[str, Any]:
        nonlocal judging
        began = time.perf_counter()
        metrics = _judge(wanted, request, networks)
        judging += time.perf_counter() - began
        training = time.perf_counter() - started - judging
        return {**metrics, "step": step, "train_seconds": round(training, 2), "evaluate_seconds": round(judging, 2)}

    def on_average(step: int, networks: Networks) -> None:
        nonlocal reported
        if report is not None:
            report(judge(step, networks))
            reported = step

    done = train(train_request) if request.workers > 1 else train_here(train_request, loaded, on_average)
    model = ModelStore(done["store"]).load(done["models"][wanted.system])
    if report is None:
        return judge(model.config.steps, model.networks)
    if reported < model.config.steps:  # killed between its last checkpoint and the report of it
        report(judge(model.config.steps, model.networks))
    return {}


def _judge(wanted: Search, request: SearchRequest, networks: Networks) -> dict[str, float]:
    """The search's metrics of a trial's networks, on the validation split."""
    import torch

    from rayface.evaluation.judges import JUDGES, Panel, using

    system, config = get_system(wanted.system), _plan(wanted, request).config(wanted.system)
    device = torch.device("cuda" if request.gpu else "cpu")
    copies = {name: copy.deepcopy(network).to(device).eval() for name, network in networks.items()}
    dataset = FaceDataset(request.data, "validation", config.size, system.labels)
    # judges take most of an evaluation's time, and they are kept for those who report on the search's result
    unasked = Panel(device, dict.fromkeys(JUDGES, "not measured: a search asks no judge"), baselines=False)
    with torch.no_grad(), using(unasked):
        report = system.evaluate(copies, config, dataset, device, request.limit or None)
    return wanted.metrics(report, copies, config)


def _train_request(wanted: Search, request: SearchRequest, chosen: Mapping[str, Any], name: str) -> TrainRequest:
    folder = f"{request.storage}/{request.name}/models"
    settings = wanted.settings(chosen) if chosen else {}
    return TrainRequest(
        systems=(wanted.system,),
        data=request.data,
        preset="" if wanted.init else request.preset,
        workers=(request.workers, request.workers),
        gpu=request.gpu,
        storage=folder,
        name=name,
        store=f"{folder}/{name}/store",
        overrides=(*wanted.fixed, *request.overrides, *(f"{key}={value}" for key, value in settings.items())),
        init=wanted.init,
        cpus_per_worker=1,
    )
