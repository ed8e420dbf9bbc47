"""What a user asks a training run for, checked before anything starts."""

import dataclasses
import json
import math
import re
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayface.compression.settings import PruningConfig
from rayface.configuration import from_dict, override, to_dict
from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.storage import absolute, open_filesystem, write_bytes
from rayface.store import ModelStore
from rayface.systems.base import SYSTEMS, System, get_system, in_dependency_order, resolve_config
from rayface.terms import check_commercial, commercial_only, dataset_terms
from rayface.training.checkpoint import check_same_run
from rayface.training.resumption import checkpoint_names
from rayface.training.tracking import check_tracker

REQUEST_FILE = "request.json"


@dataclass(frozen=True)
class TrainRequest:
    """One run: systems trained one after the other in one group of workers.

    `overrides` are `key=value` for all systems, or `system.key=value` for one; `searched` are the same of a search's
    result, which `overrides` win over. `workers` is (least, most); equal
    for a fixed group. Same `name` and `storage` resumes.
    """

    systems: tuple[str, ...]
    data: str
    preset: str = ""  # "": small; a model's own configuration where `init` is given
    workers: tuple[int, int] = (1, 1)
    gpu: bool = False
    storage: str = "runs"
    name: str = ""
    store: str = ""  # default: <storage>/store
    overrides: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    init: str = ""  # store reference to fine-tune
    cpus_per_worker: int = 0  # 0: the cluster's CPUs shared out
    data_of: tuple[tuple[str, str], ...] = ()  # (system, dataset) where a system has its own
    track: str = ""  # also log to "mlflow" or "wandb"; see `rayface.training.tracking`
    commercial_only: bool = False  # refuse data and models that do not allow commercial use; see `rayface.terms`

    @property
    def store_uri(self) -> str:
        return self.store or f"{self.storage}/store"

    @property
    def run_folder(self) -> str:
        return f"{self.storage}/{self.name}"


@dataclass(frozen=True)
class TrainPlan:
    """A request resolved: the systems in order with their whole configuration, as plain values for the workers."""

    request: TrainRequest
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def config(self, system: str) -> Any:
        return from_dict(get_system(system).config_class, self.configs[system], system)


def parse_workers(text: str) -> tuple[int, int]:
    """ "2" -> (2, 2); "1-4" -> (1, 4), elastic."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise RayfaceError(f"--workers {text!r}: give a number such as 2, or a range such as 1-4 for an elastic group")
    return least, most


def parse_data(values: Sequence[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """["DIR", "parsing=DIR2"] -> the dataset for all systems, and those of single ones."""
    general, own = [], []
    for value in values:
        head, separator, rest = value.partition("=")
        if separator and head in SYSTEMS:
            own.append((head, rest))
        else:
            general.append(value)
    if len(general) > 1 or not (general or own):
        raise RayfaceError(f"--data {' '.join(values)}: give one dataset for all systems, and system=DIR for its own")
    return (general or [own[0][1]])[0], tuple(own)


def read_search(path: str) -> tuple[tuple[str, ...], str]:
    """The assignments in a `best.json` that `python -m tune` wrote, and the model they were found for ("": none)."""
    try:
        with open(path) as file:
            best = json.load(file)
            system, chosen, init = best["system"], best["set"], best["init"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise RayfaceError(f"--set-from {path}: not a best.json of `python -m tune` ({error!r})") from error
    return tuple(f"{system}.{key}={value}" for key, value in chosen.items()), init


def resolve(request: TrainRequest) -> TrainPlan:
    """Check everything that can be checked without a cluster and fill in what was left open.

    Raises RayfaceError naming the value and the way out: unknown system, preset or key, no such data or model,
    a batch that cannot be shared out, storage that cannot be written.
    """
    if not request.systems:
        raise RayfaceError(f"name a system to train: {', '.join(SYSTEMS)}")
    check_tracker(request.track)
    systems = tuple(in_dependency_order(request.systems))
    name = request.name or f"{'-'.join(systems)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "store":
        raise RayfaceError(f"--name {name!r}: use letters, digits, '-', '_' and '.', not {'store'!r} or a leading dot")
    request = dataclasses.replace(request, systems=systems, name=name, storage=absolute(request.storage))
    if request.store:
        request = dataclasses.replace(request, store=absolute(request.store))
    for system_name, _ in request.data_of:
        if system_name not in systems:
            raise RayfaceError(f"--data {system_name}=...: only {', '.join(systems)} is trained here")
    own = tuple((system_name, absolute(data)) for system_name, data in request.data_of)
    request = dataclasses.replace(request, data=absolute(request.data), data_of=own)
    if "/" in request.init:
        request = dataclasses.replace(request, init=absolute(request.init))
    # workers on other machines do not see this process's environment
    request = dataclasses.replace(request, commercial_only=request.commercial_only or commercial_only())
    configs = {}
    for system_name in systems:
        configs[system_name] = to_dict(_resolve_config(request, system_name))
    plan = TrainPlan(request, configs)
    return dataclasses.replace(plan, configs={name: _fitted_config(plan, name) for name in systems})


def _fitted_config(plan: TrainPlan, name: str) -> dict[str, Any]:
    """A system's config with what its data tells; the data is opened only for a system that asks."""
    system = get_system(name)
    if type(system).fitted is System.fitted:
        return plan.configs[name]
    return to_dict(system.fitted(plan.config(name), training_split(plan, name)))


def training_split(plan: TrainPlan, system: str) -> FaceDataset:
    """The faces a system of the plan trains on. Raises RayfaceError when there are none, or terms that are refused."""
    data = dict(plan.request.data_of).get(system, plan.request.data)
    config = plan.config(system)
    dataset = FaceDataset(data, "train", config.size, get_system(system).labels, config.data_share)
    if plan.request.commercial_only:
        check_commercial(f"data set {data}", dataset_terms(dataset.manifest), "dataset.json")
    return dataset


def check_resumable(plan: TrainPlan, digests: Mapping[str, str]) -> None:
    """Refuse, before anything starts, to go on with a run of the same name that was asked for differently.

    `digests`: of each system's training data. A start leaves `request.json` in the run's folder; it binds once there
    is a checkpoint.
    """
    filesystem, folder = open_filesystem(plan.request.run_folder)
    path = f"{folder}/{REQUEST_FILE}"
    if not checkpoint_names(filesystem, folder):
        content = {"systems": plan.request.systems, "configs": plan.configs, "data": dict(digests)}
        write_bytes(json.dumps(content, indent=1).encode(), path, filesystem)
        return
    with filesystem.open_input_stream(path) as stream:
        started = json.loads(stream.read())
    if list(started["systems"]) != list(plan.request.systems):
        raise RayfaceError(
            f"run {plan.request.name!r} holds a checkpoint of {', '.join(started['systems'])}, not of "
            f"{', '.join(plan.request.systems)}; choose another --name"
        )
    for name in plan.request.systems:
        saved = {"config": started["configs"][name], "data_digest": started["data"][name]}
        check_same_run(saved, plan.config(name), digests[name])


def check_storage(storage: str) -> None:
    """Write and remove a small file, so that a run does not fail at its first checkpoint."""
    filesystem, path = open_filesystem(storage)
    probe = f"{path}/.rayface-{uuid.uuid4().hex[:8]}"
    write_bytes(b"rayface", probe, filesystem)
    filesystem.delete_file(probe)


def _resolve_config(request: TrainRequest, system_name: str) -> Any:
    system = get_system(system_name)
    overrides = _assignments(system_name, request)
    if request.init:
        if request.preset:
            raise RayfaceError(
                f"--preset {request.preset}: --init goes on with the configuration of {request.init}; leave out "
                "--preset, and change single values with --set"
            )
        if len(request.systems) > 1:
            raise RayfaceError("--init fine-tunes one system; name just one")
        from rayface.store import open_store

        info = open_store(request.store_uri, request.commercial_only).usable(request.init)
        if info["system"] != system_name:
            raise RayfaceError(f"--init {request.init}: a model of {info['system']!r}, not of {system_name!r}")
        config = from_dict(system.config_class, info["config"], request.init)
        # rounds of reduction that the model went through are no wish to go through them again
        config = override(dataclasses.replace(config, pruning=PruningConfig()), overrides)
        system.check(config)
    else:
        config = resolve_config(system, request.preset or "small", overrides)
    _check_batch(config.global_batch, request.workers, system.samples_together)
    return _with_pinned_models(request, system, config)


def _check_batch(global_batch: int, workers: tuple[int, int], together: int) -> None:
    """Every size the group may have must share the batch evenly, in units of `together` samples."""
    sizes = range(workers[0], workers[1] + 1)
    uneven = [size for size in sizes if global_batch % (size * together)]
    if uneven:
        step = math.lcm(*sizes) * together
        raise RayfaceError(
            f"global_batch={global_batch} cannot be shared evenly by {uneven[0]} workers; use a multiple of {step}, "
            f"for example --set global_batch={-(-global_batch // step) * step}"
        )


def _with_pinned_models(request: TrainRequest, system: System, config: Any) -> Any:
    """The config with every frozen model as name@version: a resumed run must not meet a newer teacher.

    A model that this very run trains first has no version yet and keeps its bare name.
    """
    from rayface.store import open_store

    store = open_store(request.store_uri, request.commercial_only)
    for key, reference in system.frozen_models(config).items():
        if reference in request.systems[: request.systems.index(system.name)]:
            continue
        info = store.usable(reference)
        wanted = system.frozen_systems.get(key, info["system"])
        if info["system"] != wanted:
            raise RayfaceError(f"{key}={reference}: a model of {info['system']!r}; {key} must be one of {wanted!r}")
        if "/" not in reference:
            config = override(config, [f"{key}={info['name']}@{info['version']}"])
    return config


def command_line(request: TrainRequest, system: str) -> str:
    """What trains this system like this again, on data of one's own; for model cards."""
    parts = ["rayface", "train", system, "--data", "DIR"]
    parts += ["--init", request.init] if request.init else ["--preset", request.preset or "small"]
    for assignment in _assignments(system, request):
        parts += ["--set", assignment]
    return shlex.join(parts)


def _assignments(system: str, request: TrainRequest) -> list[str]:
    """What is set of a system; the last one of a key counts."""
    return _overrides_for(system, request.searched) + _overrides_for(system, request.overrides)


def _overrides_for(system: str, overrides: tuple[str, ...]) -> list[str]:
    """Those for every system, then those for this one; `parsing.steps=5` is for parsing only."""
    general, own = [], []
    for assignment in overrides:
        head, _, rest = assignment.partition(".")
        if head in SYSTEMS:
            if head == system:
                own.append(rest)
        else:
            general.append(assignment)
    return general + own


def load_frozen(store: ModelStore, references: Mapping[str, str]) -> dict[str, Any]:
    """The networks of the frozen models a system asks for: of the store, or "pretrained:..."."""
    return {name: store.load_network(reference) for name, reference in references.items()}
