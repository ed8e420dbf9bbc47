"""Put a parser that `rayface train parsing` made into weights/judges, as the judge of where a face's parts are.

    rayface train parsing --data DIR --set steps=900 --set seed=7 --set parser.widths=20,40,80,112,144 --set jitter=0.35
        --set shift=0.08
    rayface train parsing --data DIR --init parsing@1 --set steps=1000 --set seed=8 --set learning_rate=0.0007
    python -m benchmarks.release_parsing_judge REF --store runs/store --data DIR --terms "CelebAMask-HQ: ..."

It has no weight, no width and no order of training in common with the released parser, whose training photos it
shares. It is judged on the test split by `rayface evaluate parsing`'s report, kept in its json.
"""

import argparse

import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.judge_weights import WEIGHTS
from rayface.evaluation.parsing_judge import save_parsing_judge
from rayface.store import open_store
from rayface.systems.base import get_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", required=True)
    parser.add_argument("--data", required=True, help="the data set it was trained on; its test split judges it")
    parser.add_argument("--terms", required=True)
    arguments = parser.parse_args()
    loaded = open_store(arguments.store).load(arguments.model)
    system = get_system(loaded.system)
    dataset = FaceDataset(arguments.data, "test", loaded.config.size, system.labels)
    with torch.no_grad():
        metrics = system.evaluate(loaded.networks, loaded.config, dataset, torch.device("cpu"), None)
    about = {
        "terms": arguments.terms, "commercial_use": False, "command": loaded.info.get("command"),
        "data": {"digest": dataset.digest, "split": "test", "photos": len(dataset)}, "metrics": metrics,
    }  # fmt: skip
    save_parsing_judge(loaded.networks["parser"], loaded.config.parser, WEIGHTS, about)
    print(f"mean F1 {metrics['mean_f1']}")


if __name__ == "__main__":
    main()
