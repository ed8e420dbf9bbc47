"""How well the attribute judge tells the facial-hair styles of photos, and where it should say yes.

    python -m benchmarks.facial_hair_judge --data DIR

Prints for each style the threshold of its score (`evaluation.facial_hair.style_scores`), half way between what 95 %
of the train photos of other styles are below and what 95 % of its own are above, and on test photos the score's AUC and
how often it is right. `THRESHOLDS` are these thresholds.
"""

import argparse

import numpy as np
import torch

from rayface.data.dataset import FaceDataset
from rayface.evaluation.attribute_judge import load_attribute_judge
from rayface.evaluation.facial_hair import style_scores
from rayface.evaluation.metrics import RankedScores
from rayface.imaging.codec import to_float
from rayface.records import FACIAL_HAIR
from rayface.systems.facial_hair_losses import styles_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()
    scores, styles = scores_and_styles(arguments.data, "train")
    test_scores, test_styles = scores_and_styles(arguments.data, "test")
    print("| style | threshold | train photos | test photos | test AUC | found | falsely found |")
    print("|---" * 7 + "|")
    for number, style in enumerate(FACIAL_HAIR):
        threshold = half_way(scores[:, number], styles == number)
        is_it, yes = test_styles == number, test_scores[:, number] > threshold
        auc = RankedScores(test_scores[:, number], is_it).auc(np.ones(len(is_it)))
        counts = f"{(styles == number).sum()} | {is_it.sum()}"
        print(
            f"| {style} | {threshold:.2f} | {counts} | {auc:.3f} | {yes[is_it].mean():.2f} | {yes[~is_it].mean():.2f} |"
        )


@torch.inference_mode()
def scores_and_styles(folder: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    dataset, judge, parts = FaceDataset(folder, split, 256, ("attributes",)), load_attribute_judge(), []
    for start in range(0, len(dataset), 16):
        crops = dataset.batch(range(start, min(start + 16, len(dataset))))["image"]
        parts.append(style_scores(judge(to_float(crops)).logit(1e-6)))
    attributes = dataset.batch(range(len(dataset)), ("attributes",))["attributes"]
    return torch.cat(parts).numpy(), styles_of(np.asarray(attributes))


def half_way(scores: np.ndarray, is_it: np.ndarray) -> float:
    return float(np.percentile(scores[~is_it], 95) + np.percentile(scores[is_it], 5)) / 2


if __name__ == "__main__":
    main()
