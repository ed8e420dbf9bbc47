"""Training on Ray: one group of workers trains the systems of a run one after the other.

The run's checkpoint says which systems are finished and holds the state of the one in training, so the loss of a
worker, or of the whole driver, goes on from there: `train` with the same name and storage resumes.
"""

import copy
import dataclasses
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow.fs import copy_files

from rayface.errors import RayfaceError
from rayface.ray_session import connect
from rayface.storage import open_filesystem
from rayface.training.request import (
    TrainPlan,
    TrainRequest,
    check_resumable,
    check_storage,
    command_line,
    load_frozen,
    resolve,
    training_split,
)
from rayface.training.resumption import RUN_FILE, checkpoint_names, newest_whole, read_run, write_run
from rayface.training.side_by_side import groups_at_once, train_side_by_side
from rayface.training.stopping import forget_reason, leave_reason, reason_left

if TYPE_CHECKING:
    from rayface.store import LoadedModel


FAILURES = 10  # lost workers, nodes and storage that a run survives; nodes that are taken with notice do not count

PAUSES = (10, 30, 60)  # seconds before a run is started again that Ray Train has given up; anew for each outage


def train(request: TrainRequest) -> dict[str, Any]:
    """Train on the Ray cluster this process is connected to (or a new local one); returns models and metrics.

    Several systems train at the same time where the cluster has room for a group of workers each.

    Raises RayfaceError with the reason when the run cannot start or fails.
    """
    plan = resolve(request)
    splits = {name: training_split(plan, name) for name in plan.request.systems}
    check_storage(plan.request.storage)
    connect()
    scaling = _scaling(plan.request)
    if (at_once := groups_at_once(plan)) > 1:
        return train_side_by_side(plan, at_once)
    check_resumable(plan, {name: split.digest for name, split in splits.items()})
    forget_reason(plan.request.run_folder)
    result = _fit(plan, scaling)
    if reason := reason_left(plan.request.run_folder):
        raise RayfaceError(reason, kind="training-failed")
    checkpoint = result.checkpoint
    if checkpoint is None:
        raise RayfaceError(f"run {plan.request.name!r} ended without a checkpoint; see its logs")
    with checkpoint.as_directory() as folder:
        finished = read_run(Path(folder))["finished"]
    return {
        "run": plan.request.name,
        "storage": plan.request.storage,
        "models": finished,
        "store": plan.request.store_uri,
        "faces": {name: len(split) for name, split in splits.items()},
        "metrics": dict(result.metrics or {}),
    }


def _fit(plan: TrainPlan, scaling: Mapping[str, Any]) -> Any:
    """Ray Train's result. Where its controller fails, as it does when storage is away, the run is started again."""
    import ray.train
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from rayface.training.process_group import RayNetwork

    # A group of fixed size may wait for machines with GPUs to be started. An elastic one that waits for a node that has
    # just died is to look again what there is.
    least, most = plan.request.workers
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300" if least == most else "60")
    pauses, newest = list(PAUSES), _newest(plan)
    while True:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"plan": plan},
            torch_config=RayNetwork(),
            scaling_config=ScalingConfig(**scaling),
            run_config=RunConfig(
                name=plan.request.name,
                storage_path=plan.request.storage,
                failure_config=FailureConfig(max_failures=FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=3),
            ),
        )
        try:
            return trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            if (now := _newest(plan)) not in (newest, None):  # it has gone on since: another outage
                pauses, newest = list(PAUSES), now
            if not pauses or isinstance(error, ray.train.WorkerGroupError):
                raise RayfaceError(_reason(error), kind="training-failed") from error
            print(f"{error}\nThe run goes on in {pauses[0]} s", flush=True)
            time.sleep(pauses.pop(0))


def _newest(plan: TrainPlan) -> str | None:
    """Name of the run's newest finished checkpoint; None where there is none, or the storage does not answer."""
    try:
        filesystem, folder = open_filesystem(plan.request.run_folder)
        names = reversed(checkpoint_names(filesystem, folder))
        finished = (name for name in names if filesystem.get_file_info(f"{folder}/{name}/{RUN_FILE}").is_file)
        return next(finished, None)
    except (RayfaceError, OSError):
        return None


def train_worker(settings: dict[str, Any]) -> None:
    """What each worker runs: every system of the plan, from wherever the run's checkpoint stands."""
    from rayface.training.workers import from_ray

    # Ray logs every report with all its metrics, to the root logger too; Progress tells the same in one line
    for name in ("", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    plan: TrainPlan = settings["plan"]
    workers = from_ray()
    if workers.from_rank_zero(reason_left(plan.request.run_folder)):
        return
    try:
        _train_systems(plan, workers)
    except RayfaceError as error:
        leave_reason(plan.request.run_folder, error)
        raise
    except OSError as error:
        if "No space left" not in str(error):
            raise
        full = f"a disk is full ({error}): free space there; the same command then goes on"
        raise RayfaceError(full, kind="unwritable") from error


def _train_systems(plan: TrainPlan, workers: Any) -> None:
    """Every system of the plan that is not finished, from the newest checkpoint."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    folder = Path(tempfile.mkdtemp(prefix="rayface-resume-"))
    try:
        finished: dict[str, str] = {}
        current = None
        if checkpoint is not None:
            run = _fetch(checkpoint, workers, folder)
            finished, current = run["finished"], run["current"]
        for name in plan.request.systems:
            finished = workers.from_rank_zero(finished)  # only rank 0 saves models
            if name not in finished:
                train_system(plan, name, workers, finished, folder if name == current else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(checkpoint: Any, workers: Any, folder: Path) -> dict[str, Any]:
    """The newest whole checkpoint of the run into `folder`, on all ranks the same; rank 0 looks for it."""
    path = newest_whole(checkpoint.filesystem, checkpoint.path, folder) if workers.rank == 0 else None
    path = workers.from_rank_zero(path)
    if workers.rank != 0:
        copy_files(path, str(folder), source_filesystem=checkpoint.filesystem)
    return read_run(folder)


def train_system(plan: TrainPlan, name: str, workers: Any, finished: dict[str, str], resume: Path | None) -> None:
    """Train one system to its end and save its model; `finished` gains its reference (on rank 0)."""
    from rayface.training.loop import run
    from rayface.training.progress import open_progress

    training, dataset = begin(with_trained(plan, name, finished), name, workers, resume)
    progress = open_progress(plan, name, training.step) if workers.rank == 0 else None

    def on_checkpoint(step: int, metrics: dict[str, float], write: Callable[[Path], None] | None) -> None:
        if step == training.config.steps and workers.rank == 0:
            finished[name] = save_model(plan, training, dataset)
        _report({"system": name, "step": step, **metrics}, finished, write)

    run(training, dataset, on_checkpoint, progress, f"{plan.request.run_folder}/{name}")
    if progress:
        progress.close()


def with_trained(plan: TrainPlan, name: str, finished: Mapping[str, str]) -> TrainPlan:
    """`plan` with the models that this run has trained for system `name` as the name@version that it saved.

    A bare name would mean the store's newest or promoted one.
    """
    from rayface.configuration import override, to_dict
    from rayface.systems.base import get_system

    config = plan.config(name)
    for key, reference in get_system(name).frozen_models(config).items():
        if reference in finished:
            config = override(config, [f"{key}={finished[reference]}"])
    return dataclasses.replace(plan, configs={**plan.configs, name: to_dict(config)})


def begin(
    plan: TrainPlan, name: str, workers: Any, resume: Path | None, loaded: "Mapping[str, LoadedModel] | None" = None
) -> tuple[Any, Any]:
    """(Training, FaceDataset) of a system: from the checkpoint folder `resume`, else new or from the --init model.

    `loaded` are models by reference that need not be read again.
    """
    loaded = loaded or {}
    from rayface.store import open_store
    from rayface.systems.base import get_system
    from rayface.training.loop import Training

    system, config = get_system(name), plan.config(name)
    store = open_store(plan.request.store_uri, plan.request.commercial_only)
    dataset = training_split(plan, name)
    asked = system.frozen_models(config)
    frozen = load_frozen(store, {key: ref for key, ref in asked.items() if ref not in loaded})
    frozen |= {key: next(iter(loaded[ref].networks.values())) for key, ref in asked.items() if ref in loaded}
    if resume is not None:
        return Training.resume(system, config, workers, resume, dataset.digest, frozen), dataset
    began = loaded.get(plan.request.init) or (store.load(plan.request.init) if plan.request.init else None)
    init = began.networks if began else system.initial(config, dataset, frozen)
    return Training.start(system, config, workers, frozen, init), dataset


def save_model(plan: TrainPlan, training: Any, dataset: Any) -> str:
    """The averaged networks of a finished system into the store, unless a killed run already put them there."""
    from rayface.store import ModelStore
    from rayface.terms import inherited

    released = {key: copy.deepcopy(training.average[key]) for key in training.system.released}
    finished = training.system.finish(released, training.config, dataset, training.workers.device)
    details = {
        "run": plan.request.name,
        "steps": training.step,
        "init": plan.request.init,
        "command": command_line(plan.request, training.system.name),
        "data": {
            "digest": dataset.digest,
            "format": dataset.manifest.get("format"),
            "faces": len(dataset),
        },
        "trained_with": _trained_with(plan, training),
        **finished,
        **inherited(_sources(plan, training, dataset)),
    }
    store = ModelStore(plan.request.store_uri)
    return store.save(training.system.name, training.system.name, training.config, released, details=details)


def _trained_with(plan: TrainPlan, training: Any) -> list[str]:
    """Every frozen network that shaped this model or one that it was fine-tuned from: none of them may judge it."""
    from rayface.configuration import from_dict
    from rayface.store import open_store

    system = training.system
    used = [*system.began_as(training.config).values(), *system.frozen_models(training.config).values()]
    if plan.request.init:
        before = open_store(plan.request.store_uri).info(plan.request.init)
        config = from_dict(system.config_class, before["config"], plan.request.init)
        used += [*before.get("trained_with", ()), *system.frozen_models(config).values()]
    return sorted(set(used))


def _sources(plan: TrainPlan, training: Any, dataset: Any) -> dict[str, Any]:
    """What a model was made from and whose terms it so inherits: data, the model it began as, those that taught it."""
    from rayface.pretrained import pretrained_terms
    from rayface.store import open_store
    from rayface.terms import dataset_terms

    models = dict(training.system.frozen_models(training.config))
    if plan.request.init:
        models["init"] = plan.request.init
    # a resumed run may end where the package is not installed
    began = {} if plan.request.init else training.system.began_as(training.config)
    store = open_store(plan.request.store_uri)
    sources = {f"data ({dataset.manifest.get('format')})": dataset_terms(dataset.manifest)}
    sources |= {f"{use} ({ref})": pretrained_terms(ref) for use, ref in began.items()}
    return sources | {f"{use} ({ref})": store.info(ref) for use, ref in models.items()}


def _report(metrics: dict[str, Any], finished: dict[str, str], write: Callable[[Path], None] | None) -> None:
    import ray.train

    if write is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="rayface-checkpoint-") as folder:
        write(Path(folder))
        write_run(Path(folder), finished, metrics["system"])
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _scaling(request: TrainRequest) -> dict[str, Any]:
    import ray

    least, most = request.workers
    total = ray.cluster_resources()
    if request.gpu and total.get("GPU", 0) < least and "RAY_ADDRESS" not in os.environ:
        raise RayfaceError(
            f"--gpu with {least} workers, but this cluster has {int(total.get('GPU', 0))} GPUs; leave --gpu out to "
            "train on CPUs, or set RAY_ADDRESS to a cluster that has them"
        )
    # a worker's CPUs must fit on one node, whatever the cluster has in all
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    per_node = -(-most // max(1, len([cpus for cpus in nodes if cpus])))
    cpus = request.cpus_per_worker or max(1, max(nodes, default=1) // per_node)
    return {
        "num_workers": least if least == most else (least, most),
        "use_gpu": request.gpu,
        "resources_per_worker": {"CPU": cpus} | ({"GPU": 1} if request.gpu else {}),
    }


def _reason(error: Exception) -> str:
    """The innermost RayfaceError's message of a failed run, else the error's own."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, RayfaceError):
                return str(cause)
            cause = cause.__cause__ or getattr(cause, "cause", None)
    return str(error)
