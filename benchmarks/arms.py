"""The same training with other settings, side by side: several seeds, one split, one table.

    python -m benchmarks.arms SYSTEM --data DIR --out runs/adaptation --seeds 0 1 2 --steps 1200 \\
        --arm fixed --arm adaptive:adaptation.every=50 --metric easy.gain_over_input.psnr --metric hard.model.psnr

An arm is NAME or NAME:key=value;key=value. All arms have the same steps, seeds and batches. A metric is a dotted name
inside the report of `rayface evaluate`; --judged also asks the judges. What is chosen by a comparison is chosen on
--split validation. Arms and seeds can run in processes of their own
(the same --out, other --arm or --seeds); whoever runs last prints all. Stops and goes on where it was.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayface.compression.cost import multiplications
from rayface.data.dataset import FaceDataset
from rayface.evaluation.evaluate import evaluate
from rayface.evaluation.report import rows
from rayface.store import open_store
from rayface.systems.base import get_system
from rayface.training.local import train_here
from rayface.training.request import TrainRequest


def trained_and_judged(
    request: TrainRequest,
    arm: str,
    seed: int,
    metrics: Sequence[str],
    limit: int | None,
    judged: bool = True,
    split: str = "test",
) -> dict[str, Any]:
    """Train one arm with one seed and evaluate; kept as NAME.json in the request's storage and read from there."""
    file = Path(request.storage, f"{request.name}.json")
    if not file.exists():
        (system,) = request.systems
        model = train_here(request)["models"][system]
        found = evaluated(system, request.data, request.store, model, metrics, limit, judged, split)
        file.write_text(json.dumps({"arm": arm, "seed": seed, **found}, indent=1) + "\n")
    return json.loads(file.read_text())


def evaluated(
    system: str,
    data: str,
    store: str | None,
    model: str,
    metrics: Sequence[str],
    limit: int | None,
    judged: bool = True,
    split: str = "test",
) -> dict[str, Any]:
    """Million multiplications of a model's network, and metrics (dotted names) of it on a split."""
    opened = open_store(store)
    found = dict(rows(evaluate(system, data, opened, model, split, limit=limit, judged=judged)["metrics"]))
    loaded = opened.load(model)
    network = loaded.networks[get_system(system).released[0]]
    example = torch.zeros(1, 3, loaded.config.size, loaded.config.size)
    return {"megamacs": multiplications(network, example) / 1e6, **{metric: found[metric] for metric in metrics}}


def table(folder: Path, metrics: Sequence[str]) -> str:
    """Markdown: a line for every run, and of every arm with several seeds the mean (lowest to highest seed)."""
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
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


def _number(value: Any) -> float:
    return float(value["value"] if isinstance(value, dict) else value)


def run_options(description: str | None, steps: int) -> argparse.ArgumentParser:
    """What every comparison of trainings takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, and what they ask for before the first training."""
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    FaceDataset(arguments.data, "test")  # before hours of training
    return arguments


def main() -> None:
    parser = run_options(__doc__, steps=600)
    parser.add_argument("system")
    parser.add_argument("--arm", action="append", required=True)
    parser.add_argument("--metric", action="append", required=True)
    parser.add_argument("--init", default="")
    parser.add_argument("--preset", default="")
    parser.add_argument("--judged", action="store_true")
    parser.add_argument("--split", default="test", help="validation: to choose a setting by")
    arguments = begin(parser)
    for seed in arguments.seeds:
        for arm in arguments.arm:
            name, _, settings = arm.partition(":")
            overrides = (
                f"steps={arguments.steps}", f"seed={seed}", *arguments.set, *filter(None, settings.split(";")),
            )  # fmt: skip
            request = TrainRequest(
                (arguments.system,), arguments.data, arguments.preset, init=arguments.init, storage=arguments.out,
                store=f"{arguments.out}/{name}-{seed}-store", name=f"{name}-{seed}", overrides=overrides,
            )  # fmt: skip
            trained_and_judged(
                request, name, seed, arguments.metric, arguments.limit, arguments.judged, arguments.split
            )
    print(table(Path(arguments.out), arguments.metric))


if __name__ == "__main__":
    main()
