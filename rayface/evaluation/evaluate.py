"""`rayface evaluate`: the metrics of a model on a split."""

import contextlib
import time
from typing import Any

import torch
from torch import nn

from rayface.errors import RayfaceError
from rayface.evaluation.judges import Panel, refusals, using
from rayface.pretrained import is_pretrained
from rayface.store import ModelStore
from rayface.systems.base import get_system


def evaluate(
    system_name: str,
    data: str,
    store: ModelStore,
    model: str | None = None,
    split: str = "test",
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Metrics of `model` (a store reference; by default the system's own name) with what they were measured on.

    `judges` are the hashes of the networks that judged; `missing` names each metric that could not be measured, why,
    and how to get its judge; `notes` says which judges the model met indirectly while it was trained.

    Raises RayfaceError: no such model, a model of another system, no such split.
    """
    from rayface.data.dataset import FaceDataset

    system = get_system(system_name)
    if device not in ("cpu", "cuda"):
        raise RayfaceError(f"--device {device!r}: give cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise RayfaceError("--device cuda, but this machine has no usable GPU; leave it out to evaluate on the CPU")
    loaded = store.load(model or system_name)
    if loaded.system != system_name:
        raise RayfaceError(f"{loaded.ref} is a model of {loaded.system!r}, not of {system_name!r}")
    dataset = FaceDataset(data, split, loaded.config.size, system.labels)
    networks = {name: network.to(device) for name, network in loaded.networks.items()}
    started = time.perf_counter()
    direct, indirect = loss_networks(store, system_name, loaded.config)
    panel = Panel(torch.device(device), refusals(direct))
    with using(panel):
        metrics = system.evaluate(networks, loaded.config, dataset, torch.device(device), limit)
    return {
        "system": system_name,
        "model": loaded.ref,
        "sha256": loaded.info["sha256"],
        "data": dataset.digest,
        "data_source": dataset.manifest.get("format"),
        "split": split,
        "photos": min(len(dataset), limit or len(dataset)),
        "seconds": round(time.perf_counter() - started, 1),
        "judges": panel.asked,
        "missing": panel.missing,
        "notes": [
            f"{reference}, which taught a network that this model was trained with, is the judge {judge!r}"
            for reference, network in indirect.items()
            for judge in refusals({reference: network})
            if judge in panel.asked
        ],
        "metrics": metrics,
    }


def loss_networks(store: ModelStore, system: str, config: Any) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The networks that a model was trained with, by reference, and those that these were trained with in turn.

    Those that the store does not hold (any more) are left out: what came inside a package is always there, or its
    judge is not either.
    """
    direct: dict[str, nn.Module] = {}
    indirect: dict[str, nn.Module] = {}
    for reference in get_system(system).frozen_models(config).values():
        with contextlib.suppress(RayfaceError):
            direct[reference] = store.load_network(reference)
            if not is_pretrained(reference):
                teacher = store.load(reference)
                for found in loss_networks(store, teacher.system, teacher.config):
                    indirect |= found
    return direct, indirect
