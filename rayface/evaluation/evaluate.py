"""`rayface evaluate`: the metrics of a model on a split."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rayface.configuration import override
from rayface.errors import RayfaceError
from rayface.evaluation.judges import JUDGES, Panel, refusals, refused_by_terms, using
from rayface.evaluation.subgroups import (
    by_group,
    group_masks,
    per_photo_values,
    predicted_attributes,
    stated_attributes,
)
from rayface.evaluation.verification import lfw_notes
from rayface.pretrained import is_pretrained
from rayface.store import LoadedModel, ModelStore
from rayface.systems.base import System, get_system
from rayface.terms import check_commercial, dataset_terms

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

# Landmarks are predicted where `rayface data ingest` and `label` found the faces themselves.
DETECTED = ". They are the detector's own, and faces that it missed are not in the data: no measure of quality"


def evaluate(
    system_name: str,
    data: str,
    store: ModelStore,
    model: str | None = None,
    split: str = "test",
    limit: int | None = None,
    device: str = "cpu",
    judged: bool = True,
    settings: Sequence[str] = (),
    use_only: bool = False,
) -> dict[str, Any]:
    """Metrics of `model` (a store reference; by default the system's own name) with what they were measured on.

    Without `judged` no judge is asked: judges take most of the time. `settings`, `key=value`, are of how the model is
    used (the system's `use_key`); with `use_only` the metrics are those that such settings change.

    `judges` are the hashes of the networks that judged; `missing` names each metric that could not be measured, why,
    and how to get its judge; `notes` says which labels are no truth but predicted, and which judges the model met
    indirectly while it was trained; `subgroups`: see `subgroup_report`.

    Raises RayfaceError: no such model, a model of another system, settings of its training, no such split, terms of the
    model or of the data that the store refuses.
    """
    from rayface.data.dataset import FaceDataset

    system = get_system(system_name)
    if limit is not None and limit < 1:
        raise RayfaceError(f"--limit {limit}: give at least 1 photo, or 0 for all")
    if device not in ("cpu", "cuda"):
        raise RayfaceError(f"--device {device!r}: give cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise RayfaceError("--device cuda, but this machine has no usable GPU; leave it out to evaluate on the CPU")
    loaded = store.load(model or system_name)
    if loaded.system != system_name:
        raise RayfaceError(f"{loaded.ref} is a model of {loaded.system!r}, not of {system_name!r}")
    config = used_as(system, loaded.config, settings)
    system.check_use(config, settings)
    dataset = FaceDataset(data, split, config.size, system.labels)
    if store.commercial_only:
        check_commercial(f"data set {data}", dataset_terms(dataset.manifest), "dataset.json")
    networks = {name: network.to(device) for name, network in loaded.networks.items()}
    started = time.perf_counter()
    direct, indirect = loss_networks(store, loaded) if judged else ({}, {})
    unasked = {} if judged else dict.fromkeys(JUDGES, "not measured: no judge was asked")
    by_terms = refused_by_terms() if store.commercial_only else {}
    panel = Panel(torch.device(device), refusals(direct) | by_terms | unasked)
    with using(panel), per_photo_values() as values:
        measure = system.judge_use if use_only else system.evaluate
        metrics = measure(networks, config, dataset, torch.device(device), limit)
    return {
        "system": system_name,
        "model": loaded.ref,
        "sha256": loaded.info["sha256"],
        "data": dataset.digest,
        "data_source": dataset.manifest.get("format"),
        "split": split,
        "photos": min(len(dataset), limit or len(dataset)),
        "limit": limit,
        "settings": list(settings),
        "seconds": round(time.perf_counter() - started, 1),
        "judges": panel.asked,
        "missing": panel.missing,
        "notes": [
            *([] if judged else ["no judge was asked"]),
            *predicted_labels(dataset, system.columns),
            *lfw_notes(metrics),
            *(
                f"{reference}, which taught a network that this model was trained with, is the judge {judge!r}"
                for reference, network in indirect.items()
                for judge in refusals({reference: network})
                if judge in panel.asked
            ),
        ],
        "subgroups": subgroup_report(values, dataset, store),
        "metrics": metrics,
    }


def used_as(system: System, config: Any, settings: Sequence[str]) -> Any:
    """A model's configuration with other settings of its use; RayfaceError for those of its training."""
    for setting in settings:
        if not system.use_key or not setting.strip().startswith(f"{system.use_key}."):
            known = f"{system.use_key}.*" if system.use_key else "none"
            raise RayfaceError(
                f"--set {setting}: of a trained model of {system.name} can be set: {known}. Else train one with "
                f"`rayface train {system.name} --set {setting}`"
            )
    if not settings:
        return config
    changed = override(config, settings)
    system.check(changed)
    return changed


def predicted_labels(dataset: "FaceDataset", columns: Sequence[str]) -> list[str]:
    """A note for each of a system's columns that a model of `rayface data` filled: agreement with it is no accuracy."""
    from rayface.data.dataset import IDENTITY_INDEX

    used = {"identity" if column == IDENTITY_INDEX else column for column in columns}
    return [
        f"the {column} of {entry['faces']} faces of this data was predicted by {entry.get('model', 'a measure')}: with "
        "these faces the metrics say how far the model agrees with that one, not whether it is right"
        + (DETECTED if column == "landmarks" else "")
        for column, entries in dataset.manifest.get("labelled_by", {}).items()
        if column in used
        for entry in entries
    ]


def subgroup_report(values: Mapping[str, np.ndarray], dataset: "FaceDataset", store: ModelStore) -> dict[str, Any]:
    """Per-photo values by group of people: `source` says whose attributes, `groups` is empty where there are none.

    The groups come from the data's labels, else from what the store's model "attributes" predicts. {} for a system
    whose report has no values per photo.
    """
    if not values:
        return {}
    total = len(next(iter(values.values())))
    attributes, source = stated_attributes(dataset, total), "the data's own labels"
    if labellers := dataset.manifest.get("labelled_by", {}).get("attributes"):
        source = f"labels that {', '.join(made['model'] for made in labellers)} predicted"
    if attributes is None:
        if "attributes" not in store.names():
            missing = "the data has no labels, and the store no model 'attributes' that could predict them"
            return {"source": missing, "groups": {}}
        try:
            loaded = store.load("attributes")
        except RayfaceError as refused:  # by its terms: that is no reason to lose the metrics
            return {"source": str(refused), "groups": {}}
        source = f"what {loaded.ref} predicts, as the data has no labels"
        step = get_system(loaded.system).make_step(loaded)
        attributes = predicted_attributes(dataset, total, step.classify, step.size)
    return {"source": source, "groups": by_group(values, group_masks(attributes))}


def loss_networks(store: ModelStore, model: LoadedModel) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The networks that a model was trained with, by reference, and those that these were trained with in turn.

    Also those that it began as, and those of the models that it was fine-tuned from (`trained_with` of config.json).
    Those that the store does not hold (any more), and networks of others that are not at hand, are left out.
    """
    direct: dict[str, nn.Module] = {}
    indirect: dict[str, nn.Module] = {}
    system = get_system(model.system)
    used = {**system.began_as(model.config), **system.frozen_models(model.config)}.values()
    for reference in dict.fromkeys([*used, *model.info.get("trained_with", ())]):
        with contextlib.suppress(RayfaceError):
            direct[reference] = store.load_network(reference)
            if not is_pretrained(reference):
                for found in loss_networks(store, store.load(reference)):
                    indirect |= found
    return direct, indirect
