"""`rayface evaluate`: the metrics of a model on a split."""

import time
from typing import Any

import torch

from rayface.errors import RayfaceError
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
        "metrics": metrics,
    }
