"""Make the attribute judge (rayface/evaluation/attribute_judge.py) and measure it.

    python benchmarks/train_attribute_judge.py --data DIR      # DIR: an ingest of celeba-mini; 5 minutes on one core

A ridge read-out of frozen EfficientNet-Lite2 features of the train split, each face seen four times under the judge's
own augmentation. Its probabilities are calibrated on out-of-fold logits of five folds of people. The test split is
used once, for the figures in weights/judges/attributes.json.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rayface.data.augmentation import jitter_colour, mirror_images, move_images
from rayface.data.dataset import FaceDataset
from rayface.data.degradation import degrade_some
from rayface.evaluation.attribute_judge import WEIGHTS, load_attribute_judge, save_read_out, with_backbone
from rayface.evaluation.attributes import attribute_report
from rayface.imaging.codec import to_float
from rayface.networks.attribute_classifier import AttributeClassifier, fit_calibration
from rayface.randomness import generator

SEED = 811
COPIES = 4  # of each face: as it is, and augmented
FOLDS = 5
BATCH = 16


def augmented(images: Tensor, indices: range, copy: int) -> Tensor:
    """Copy 0 is the crop itself; float [N, 3, S, S] in [-1, 1]."""
    if copy == 0:
        return images
    generators = [generator(SEED, copy, index, "attribute-judge") for index in indices]
    moved = move_images(images, 0.02, generators)
    changed = jitter_colour(mirror_images(moved, generators), 0.3, generators)
    return degrade_some(changed, 0.25, generators)


@torch.inference_mode()
def read(classifier: AttributeClassifier, dataset: FaceDataset) -> tuple[Tensor, Tensor]:
    """(features float [COPIES, N, F], labels int8 [N, 40])."""
    features: list[list[Tensor]] = [[] for _ in range(COPIES)]
    labels = []
    for start in range(0, len(dataset), BATCH):
        indices = range(start, min(start + BATCH, len(dataset)))
        columns = dataset.batch(indices, ("image", "attributes"))
        images = to_float(columns["image"])  # type: ignore[arg-type]
        for copy in range(COPIES):
            features[copy].append(classifier.features(augmented(images, indices, copy)))
        labels.append(columns["attributes"])
    return torch.stack([torch.cat(parts) for parts in features]), torch.cat(labels)  # type: ignore[arg-type]


def folds(dataset: FaceDataset) -> Tensor:
    """The fold of each face, int [N]; a person is in one fold only."""
    people = [identity or face for identity, face in zip(dataset.identities, dataset.ids, strict=True)]
    names = sorted(set(people))
    order = generator(SEED, stream="folds").permutation(len(names))
    fold = dict(zip(names, order % FOLDS, strict=True))
    return torch.tensor(np.array([fold[person] for person in people]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()

    classifier = with_backbone()
    train = FaceDataset(arguments.data, "train", 256, ("attributes",))
    features, labels = read(classifier, train)
    held_out, fold = torch.zeros(len(labels), labels.shape[1]), folds(train)
    for number in range(FOLDS):
        classifier.fit_read_out(features[:, fold != number], labels[fold != number])
        with torch.inference_mode():
            held_out[fold == number] = classifier.read(features[0, fold == number])
    classifier.fit_read_out(features, labels)
    classifier.calibrate(*fit_calibration(held_out, labels))

    about = {
        "made_by": "python benchmarks/train_attribute_judge.py",
        "seed": SEED,
        "data": {"format": train.manifest.get("format"), "split": "train", "faces": len(train), "digest": train.digest},
        "licence": "research-only",
        "terms": "CelebA: non-commercial research",
        "commercial_use": False,
    }
    test = FaceDataset(arguments.data, "test", 256, ("attributes",))
    with tempfile.TemporaryDirectory() as folder:  # what is measured is what is stored
        save_read_out(classifier, Path(folder), about)
        judge = load_attribute_judge(Path(folder))

    @torch.inference_mode()
    def predict(crops: Tensor) -> Tensor:
        return judge(to_float(crops))

    report = attribute_report(predict, test, BATCH)
    save_read_out(classifier, arguments.out, about | {"test": {"faces": len(test), "digest": test.digest, **report}})
    print(json.dumps({key: value for key, value in report.items() if "attributes" not in key}, indent=1))


if __name__ == "__main__":
    main()
