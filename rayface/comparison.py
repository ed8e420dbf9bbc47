"""The same training with other settings, side by side: several seeds, one split, one table.

`rayface ablate SYSTEM` compares a system with each of its parts switched off; `benchmarks/arms.py` any settings. Runs
that are finished are kept and not run again, one that was stopped goes on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayface.data.dataset import FaceDataset
from rayface.errors import RayfaceError
from rayface.storage import open_filesystem, write_bytes
from rayface.training.request import TrainRequest

WHOLE = "whole"  # the arm with nothing switched off


def ablate(
    system: str,
    data: str,
    out: str,
    seeds: Sequence[int],
    init: str = "",
    store: str = "",
    preset: str = "",
    settings: Sequence[str] = (),
    split: str = "test",
    limit: int | None = None,
    tell: Callable[[str], None] = print,
) -> str:
    """Train `system` whole and with each of its `ablations`, with every seed, and judge all on `split`.

    `store` is where `init` and the frozen models are, and where the trained ones go (default: a new one in `out`).
    Gives the table as Markdown, with the data's hash; it is also written to `out`/ablation.md.
    Raises RayfaceError for a system that names no ablations, a judge that is not at hand, and for runs in `out` that
    were asked for otherwise.
    """
    from rayface.evaluation.judges import load_judge
    from rayface.systems.base import get_system

    described = get_system(system)
    if not described.ablations:
        raise RayfaceError(f"{system} names nothing that could be switched off")
    digest = FaceDataset(data, split, require=described.labels).digest  # all that could fail, before hours of training
    for judge in described.ablation_judges:
        load_judge(judge)
    arms = {WHOLE: (), **described.ablations}
    Path(out).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for arm, off in arms.items():
            name = f"{arm}-{seed}"
            tell(f"{arm}, seed {seed}")
            request = TrainRequest(
                (system,), data, preset, init=init, storage=out, store=store or f"{out}/store", name=name,
                overrides=(*settings, f"seed={seed}", *off),
            )  # fmt: skip
            trained_and_judged(request, arm, seed, described.ablation_metrics, limit, split=split)
    names = [f"{arm}-{seed}" for arm in arms for seed in seeds]
    found = f"{table(Path(out), described.ablation_metrics, names)}\n\nData, {split} split: {digest}\n"
    _write(Path(out, "ablation.md"), found)
    return found


def ablate_use(
    system: str,
    data: str,
    out: str,
    model: str,
    store: str = "",
    split: str = "test",
    limit: int | None = None,
    tell: Callable[[str], None] = print,
) -> str:
    """Judge a trained model on `split`, used as it is and with each of the system's `use_ablations`.

    Gives the table as Markdown, with the data's hash; it is also written to `out`/ablation.md. Arms that are in `out`
    are kept. Raises RayfaceError for a system that names none, and for arms in `out` that were asked for otherwise.
    """
    from rayface.store import open_store
    from rayface.systems.base import get_system

    described = get_system(system)
    if not described.use_ablations:
        raise RayfaceError(f"{system} names nothing that could be switched off in a trained model's use")
    digest = FaceDataset(data, split, require=described.labels).digest
    sha256 = open_store(store or None).info(model)["sha256"]
    Path(out).mkdir(parents=True, exist_ok=True)
    arms = {WHOLE: (), **described.use_ablations}
    for arm, off in arms.items():
        tell(arm)
        asked = {"data": digest, "model": sha256, "settings": list(off), "split": split, "limit": limit}

        def judged(arm: str = arm, off: Sequence[str] = off) -> dict[str, Any]:
            metrics = described.ablation_metrics
            found = evaluated(system, data, store or None, model, metrics, limit, True, split, off, True)
            return {"arm": arm, **found}

        kept_or_made(Path(out, f"{arm}.json"), asked, judged)
    found = f"{table(Path(out), described.ablation_metrics, list(arms))}\n\nData, {split} split: {digest}\n"
    _write(Path(out, "ablation.md"), found)
    return found


def kept_or_made(file: Path, asked: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in `file`, else what `make` gives, written there with `asked`.

    Raises RayfaceError where the file is of something else that was asked.
    """
    if file.exists():
        held = json.loads(file.read_text()).get("asked", asked)  # older runs do not say
        if held != asked:
            changed = ", ".join(
                f"{key} ({held.get(key)} then, {asked[key]} now)" for key in asked if held.get(key) != asked[key]
            )
            raise RayfaceError(f"{file} is of another comparison: {changed}; choose another folder, or delete it")
    else:
        _write(file, json.dumps({"asked": asked, **make()}, indent=1) + "\n")
    return json.loads(file.read_text())


def trained_and_judged(
    request: TrainRequest,
    arm: str,
    seed: int,
    metrics: Sequence[str],
    limit: int | None,
    judged: bool = True,
    split: str = "test",
) -> dict[str, Any]:
    """Train one arm with one seed and evaluate; kept as NAME.json in the request's storage and read from there.

    Raises RayfaceError where that was asked for with other data, settings or measures.
    """
    from rayface.training.local import train_here

    file = Path(request.storage, f"{request.name}.json")
    asked = {
        "data": FaceDataset(request.data, split).digest, "init": request.init, "preset": request.preset,
        "settings": list(request.overrides), "split": split, "limit": limit, "judged": judged,
    }  # fmt: skip

    def make() -> dict[str, Any]:
        (system,) = request.systems
        model = train_here(request)["models"][system]
        found = evaluated(system, request.data, request.store, model, metrics, limit, judged, split)
        return {"arm": arm, "seed": seed, **found}

    return kept_or_made(file, asked, make)


def evaluated(
    system: str,
    data: str,
    store: str | None,
    model: str,
    metrics: Sequence[str],
    limit: int | None,
    judged: bool = True,
    split: str = "test",
    settings: Sequence[str] = (),
    use_only: bool = False,
) -> dict[str, Any]:
    """Million multiplications of a model's first network, and metrics (dotted names) of it on a split.

    `settings` and `use_only` as `evaluate` takes them. A metric that could not be measured (its judge is not at hand)
    is None.
    """
    import torch

    from rayface.compression.cost import multiplications
    from rayface.evaluation.evaluate import evaluate
    from rayface.evaluation.report import rows
    from rayface.store import open_store
    from rayface.systems.base import get_system

    opened = open_store(store)
    report = evaluate(
        system, data, opened, model, split, limit=limit, judged=judged, settings=settings, use_only=use_only
    )
    found = dict(rows(report["metrics"]))
    loaded = opened.load(model)
    network = get_system(system).of_pictures(loaded.networks)
    example = torch.zeros(1, 3, loaded.config.size, loaded.config.size)
    return {"megamacs": multiplications(network, example) / 1e6, **{metric: found.get(metric) for metric in metrics}}


def table(folder: Path, metrics: Sequence[str], names: Sequence[str] | None = None) -> str:
    """Markdown: a line for every run, and of every arm with several seeds the mean (lowest to highest seed).

    `names`: which runs; None for all in the folder.
    """
    files = sorted(folder.glob("*.json")) if names is None else [folder / f"{name}.json" for name in names]
    runs = [json.loads(file.read_text()) for file in files]
    lines = ["| arm | seed | M mult. | " + " | ".join(metrics) + " |", "|---" * (3 + len(metrics)) + "|"]
    for run in runs:
        values = " | ".join(f"{_number(run[metric]):.3f}" for metric in metrics)
        lines.append(f"| {run['arm']} | {run.get('seed', '')} | {run['megamacs']:.0f} | {values} |")
    for arm in dict.fromkeys(run["arm"] for run in runs):
        numbers = [[_number(run[metric]) for metric in metrics] for run in runs if run["arm"] == arm]
        if len(numbers) > 1:
            columns = np.array(numbers).T
            cells = " | ".join(f"**{c.mean():.3f}** ({c.min():.3f} to {c.max():.3f})" for c in columns)
            lines.append(f"| **{arm}** | all {len(numbers)} | | {cells} |")
    return "\n".join(lines)


def _number(value: float | Mapping[str, float] | None) -> float:
    if value is None:
        return float("nan")
    return float(value["value"] if isinstance(value, Mapping) else value)


def _write(path: Path, text: str) -> None:
    """Whole, or not at all."""
    filesystem, place = open_filesystem(str(path))
    write_bytes(text.encode(), place, filesystem)
