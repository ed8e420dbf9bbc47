"""The pruning search: how many channels of each kind of layer may go, quality against cost (SPEC C2, F4).

Every trial starts from the same trained model, takes the channels that it is told to take at its first step, trains
on, for the enhancer with that model as its teacher, and is judged by quality and by multiplications (or by time).
"""

import re
from collections.abc import Mapping
from typing import Any

from rayface.errors import RayfaceError
from rayface.pretrained import is_pretrained
from rayface.store import ModelStore, open_store, release_store
from rayface.systems.base import Networks, System, get_system
from tune.augmentation import mean_psnr
from tune.definition import Objective, Search

OVERALL = "overall"
MOST = 0.8  # largest share of channels to remove
APART = 0.3  # how far a kind's share may lie from the overall one
UNIFORM = (0.0, 0.25, 0.5, 0.7)  # the ratios tried first, alike for all: what a search has to beat


def _psnr(report: dict[str, Any]) -> float:
    return mean_psnr(report)["psnr_mean"]


def _f1(report: dict[str, Any]) -> float:
    return float(report["mean_f1"]["value"])


def _auc(report: dict[str, Any]) -> float:
    return float(report["auc"]["value"])


QUALITY = {"enhancement": ("psnr_mean", _psnr), "parsing": ("mean_f1", _f1), "recognition": ("auc", _auc)}


def pruning_search(system_name: str, init: str, store: str | None = None, latency: bool = False) -> Search:
    """The search that narrows a stored model.

    Raises RayfaceError: a system whose networks are not narrowed, no such model, a model of another system.
    """
    if system_name not in QUALITY:
        raise RayfaceError(f"{system_name!r} cannot be searched; systems that can: {', '.join(QUALITY)}")
    system, stored = get_system(system_name), open_store(store)
    loaded = stored.load(init or system_name)
    if loaded.system != system_name:
        raise RayfaceError(f"--init {init}: a model of {loaded.system!r}, not of {system_name!r}")
    start = portable(stored, init or system_name)
    kinds = _kinds(system, loaded.networks, loaded.config)
    metric, quality = QUALITY[system_name]
    cost = "latency_ms" if latency else "megamacs"

    def space() -> dict[str, Any]:
        from ray import tune

        # trials spread over all costs by the first, and differ in where the channels go by the others
        return {OVERALL: tune.uniform(0.0, MOST), **{kind: tune.uniform(-APART, APART) for kind in kinds}}

    def metrics(report: dict[str, Any], networks: Networks, config: Any) -> dict[str, float]:
        return {metric: quality(report), **_cost(networks[system.released[0]], config.size)}

    def settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
        shares = {kind: min(max(chosen[OVERALL] + chosen[kind], 0.0), MOST) for kind in kinds}
        ratios = [f"{group}:{shares[kind]:.4f}" for kind, groups in kinds.items() for group in groups]
        return {"pruning.ratios": ",".join(ratios)}

    frozen = {
        name: portable(stored, reference)
        for name, reference in system.frozen_models(loaded.config).items()
        if not is_pretrained(reference)
    }
    if system_name == "enhancement":
        frozen["teacher"] = start
    taught = [f"{name}={reference}" for name, reference in frozen.items()]
    fixed = ("pruning.rounds=1", "pruning.every=1", "pruning.gate=false", *taught)
    return Search(
        name="pruning",
        system=system_name,
        space=space,
        known=tuple({OVERALL: ratio, **dict.fromkeys(kinds, 0.0)} for ratio in UNIFORM),
        objectives=(Objective(metric, "max"), Objective(cost, "min")),
        metrics=metrics,
        settings=settings,
        init=start,
        fixed=fixed,
    )


def portable(stored: ModelStore, reference: str) -> str:
    """A reference that trials, whose stores are their own, understand: name@version of a release, else the folder."""
    folder, info = stored.folder(reference), stored.info(reference)
    name = f"{info['name']}@{info['version']}"
    try:
        return name if release_store().folder(name) == folder else folder
    except RayfaceError:
        return folder


def _kinds(system: System, networks: Networks, config: Any) -> dict[str, list[str]]:
    """Channel groups of the released network by kind: its name without numbers, in the finer or coarser half."""
    import torch

    from rayface.compression.channels import channel_groups

    groups = channel_groups(networks[system.released[0]], torch.zeros(1, 3, config.size, config.size))
    kinds: dict[str, list[str]] = {}
    levels = {group.name: [int(number) for number in re.findall(r"\.(\d+)", group.name)[:1]] for group in groups}
    deepest = max((level[0] for level in levels.values() if level), default=0)
    for group in groups:
        kind = re.sub(r"\.\d+", "", group.name)
        if levels[group.name]:
            kind += " fine" if levels[group.name][0] <= deepest / 2 else " coarse"
        kinds.setdefault(kind, []).append(group.name)
    return kinds


def _cost(network: Any, side: int) -> dict[str, float]:
    import torch

    from rayface.compression.cost import latency_ms, multiplications

    example = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    return {
        "megamacs": round(multiplications(network, example) / 1e6, 3),
        "latency_ms": round(latency_ms(network, example), 3),
        "parameters": float(sum(parameter.numel() for parameter in network.parameters())),
    }
