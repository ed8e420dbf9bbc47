"""How a system gains from data: the same training on 25, 50 and 100 % of the people, judged on the same test split.

    python benchmarks/data_curves.py SYSTEM --data DIR --metric mean_f1 --out runs/curves [--steps 600] [--set k=v]

Equal steps and seeds, so the only difference is how many people were seen (shares are nested: data_share). Stops and
goes on where it was when called again. Writes curve-SYSTEM.json with every report's metric and prints it; a dotted
name such as all.model.perceptual_distance finds a metric inside the report.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.evaluate import evaluate
from rayface.evaluation.report import rows
from rayface.store import open_store
from rayface.systems.base import get_system
from rayface.training.local import train_here
from rayface.training.request import TrainRequest

SHARES = (0.25, 0.5, 1.0)


def point(arguments: argparse.Namespace, share: float) -> dict[str, Any]:
    """Train on one share and measure."""
    name = f"{arguments.system}-{round(100 * share)}"
    overrides = (f"steps={arguments.steps}", f"data_share={share}", "seed=0", *arguments.set)
    request = TrainRequest(
        (arguments.system,), arguments.data, arguments.preset, storage=arguments.out, name=name, overrides=overrides,
        store=f"{arguments.out}/{name}-store",
    )  # fmt: skip
    model = train_here(request)["models"][arguments.system]
    report = evaluate(arguments.system, arguments.data, open_store(request.store_uri), model, limit=arguments.limit)
    found = dict(rows(report["metrics"]))
    system = get_system(arguments.system)
    faces = len(FaceDataset(arguments.data, "train", require=system.labels, share=share))
    return {"share": share, "faces": faces, **{metric: found[metric] for metric in arguments.metric}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system")
    parser.add_argument("--data", required=True)
    parser.add_argument("--metric", action="append", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    points = [point(arguments, share) for share in SHARES]
    report = {"system": arguments.system, "steps": arguments.steps, "points": points}
    Path(arguments.out, f"curve-{arguments.system}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
