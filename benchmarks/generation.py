"""How far faces that a generator draws are from photos, on a whole split: `rayface evaluate --limit` takes too few.

python -m benchmarks.generation --data DIR [--model attribute_editing] [--store STORE] [--split test]
"""

import argparse
import json

import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.generation import generation_report
from rayface.store import open_store
from rayface.systems.inversion_report import drawn_faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="attribute_editing")
    parser.add_argument("--store", default="")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    loaded = open_store(arguments.store or None).load(arguments.model)
    device = torch.device("cpu")
    held_out, trained_on = (FaceDataset(arguments.data, split) for split in (arguments.split, "train"))

    def draw(first: int, count: int) -> torch.Tensor:
        return drawn_faces(loaded.networks["generator"], first, count, device)

    report = generation_report(draw, held_out, trained_on, loaded.config.global_batch, None)
    print(json.dumps({"of": loaded.ref, "data": held_out.digest, **report}, indent=1))


if __name__ == "__main__":
    main()
