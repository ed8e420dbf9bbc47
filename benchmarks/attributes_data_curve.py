"""How the attribute classifier gains from data: 25, 50 and 100 % of the train photos, drawn by person.

    python benchmarks/attributes_data_curve.py --data DIR        # DIR: an ingest of celeba-mini; 2 minutes on one core

For the closed-form start of a training (pretrained backbone as it is, ridge read-out, calibrated on the validation
split), which needs no gradient steps, so that all sizes are measured on the same features.
"""

import argparse
import json

import numpy as np
import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.attributes import majority_guess, summary
from rayface.networks.attribute_classifier import AttributeClassifier, fit_calibration
from rayface.randomness import generator
from rayface.systems.attributes import Attributes, probe_features

SHARES = (0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
SHOWN = ("mean_accuracy", "gain_over_majority", "macro_auc", "calibration_error")


def chosen(dataset: FaceDataset, share: float, seed: int) -> np.ndarray:
    """Which faces, bool [N]: all photos of a share of the people."""
    people = [identity or face for identity, face in zip(dataset.identities, dataset.ids, strict=True)]
    names = sorted(set(people))
    order = generator(seed, stream="data-curve").permutation(len(names))
    kept = {names[index] for index in order[: round(share * len(names))]}
    return np.array([person in kept for person in people])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()

    system = Attributes()
    config = system.config("small")
    splits = {
        name: FaceDataset(arguments.data, name, config.size, ("attributes",))
        for name in ("train", "validation", "test")
    }
    networks = system.initial(config, splits["train"])
    assert networks is not None
    classifier = networks["classifier"]
    assert isinstance(classifier, AttributeClassifier)
    read = {name: probe_features(classifier, split) for name, split in splits.items()}

    @torch.no_grad()
    def logits(split: str) -> torch.Tensor:
        return classifier.read(read[split][0][0])

    majority = majority_guess(splits["test"])
    for share in SHARES:
        for seed in SEEDS if share < 1 else SEEDS[:1]:
            keep = chosen(splits["train"], share, seed)
            features, labels = read["train"]
            classifier.fit_read_out(features[:, keep], labels[keep])
            classifier.calibrate(*fit_calibration(logits("validation"), read["validation"][1]))
            found = logits("test").sigmoid().double().numpy()
            report = summary(found, read["test"][1].numpy().astype(int), majority)
            row = {name: {key: round(value, 4) for key, value in report[name].items()} for name in SHOWN}
            print(json.dumps({"share": share, "seed": seed, "faces": int(keep.sum()), **row}), flush=True)


if __name__ == "__main__":
    main()
