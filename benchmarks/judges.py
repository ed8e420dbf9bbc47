"""How good the judges are, measured on photos that chose nothing about them (docs/judges.md has the figures).

    python benchmarks/judges.py verify --data DIR       # identity judges: same person or not, on the test split
    python benchmarks/judges.py perceptual --data DIR   # perceptual distance: does it rise as a photo gets worse
    python benchmarks/judges.py crop --pairs DIR        # what FaceRes' crop was chosen by: deepface's photos, pairs.csv
    python benchmarks/judges.py tfjs --data DIR --modules DIR   # FaceRes here against TensorFlow.js (needs node and
                                                        # `npm install @tensorflow/tfjs` in the second DIR)

FaceRes needs RAYFACE_HUMAN_MODELS. Prints JSON.
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayface.data.dataset import FaceDataset
from rayface.data.degradation import gaussian_blur, jpeg
from rayface.evaluation.judges import JUDGES, Panel, load_judge
from rayface.evaluation.metrics import PICTURE_METRICS, RankedScores, bootstrap
from rayface.evaluation.verification import Pairs, pixels, verification_report
from rayface.imaging.codec import to_float

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# Each a ladder of five strengths, mild to strong; pictures float [3, S, S] in [0, 1], S = 256.
LADDERS: dict[str, tuple[tuple[float, ...], Callable[[Tensor, float], Tensor]]] = {
    "blur (sigma, px)": ((0.6, 1.0, 1.6, 2.6, 4.0), lambda x, s: gaussian_blur(x, (s, s), 0.0, 25)),
    "noise (levels)": ((4, 8, 16, 26, 40), lambda x, s: x + _noise(x) * s / 255),
    "jpeg (100 - quality)": ((10, 40, 60, 75, 88), lambda x, s: jpeg(x, 100 - int(s))),
    "reduction (times)": ((1.5, 2, 3, 4.5, 7), lambda x, s: _reduced(x, s)),
}


def _noise(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def _reduced(x: Tensor, factor: float) -> Tensor:
    small = F.interpolate(x[None], (round(x.shape[-1] / factor),) * 2, mode="bilinear", antialias=True)
    return F.interpolate(small, x.shape[-2:], mode="bicubic")[0]


def verify(data: str) -> dict[str, Any]:
    """AUC of both identity judges and of plain pixels on all same-person pairs and 20 times as many others."""
    dataset = FaceDataset(data, "test", 256, ("identity",))
    report: dict[str, Any] = {}
    for name in ("identity", "identity_second"):
        judge = load_judge(name)

        @torch.inference_mode()
        def embed(crops: Tensor, network: torch.nn.Module = judge.network) -> Tensor:
            return network(to_float(crops).contiguous(memory_format=torch.channels_last))

        others = {} if report else {"pixels": pixels}
        report[name] = {"sha256": judge.sha256, **verification_report(embed, dataset, 16, None, others)}
    return report


def perceptual(data: str, limit: int | None) -> dict[str, Any]:
    """Per photo the rank correlation of strength and distance on each ladder; and the shift against the blur.

    The shift: a photo moved by 1 px looks the same, one blurred by 2.6 px does not; PSNR often prefers the blur.
    """
    dataset = FaceDataset(data, "test", 256)
    metrics: dict[str, Any] = {"perceptual_distance": Panel().metrics()["perceptual_distance"]}
    metrics["psnr"] = lambda pictures, reference: -PICTURE_METRICS["psnr"](pictures, reference)
    ranks: dict[tuple[str, str], list[float]] = {}
    means: dict[str, list[np.ndarray]] = {}
    shift_is_better: dict[str, list[float]] = {}
    for index in range(min(len(dataset), limit or len(dataset))):
        image = dataset.batch([index])["image"]
        assert isinstance(image, Tensor)
        photo = image[0].float() / 255
        reference = image.expand(5, -1, -1, -1)
        for ladder, (strengths, change) in LADDERS.items():
            steps = _to_uint8(torch.stack([change(photo, strength) for strength in strengths]))
            for name, metric in metrics.items():
                distance = metric(steps, reference).numpy()
                ranks.setdefault((name, ladder), []).append(_rank_correlation(distance))
                if name == "perceptual_distance":
                    means.setdefault(ladder, []).append(distance)
        moved, blurred = photo.roll(1, 2), gaussian_blur(photo, (2.6, 2.6), 0.0, 25)
        moved[:, :, 0] = photo[:, :, 0]
        both = _to_uint8(torch.stack([moved, blurred]))
        for name, metric in metrics.items():
            shift, blur = metric(both, image.expand_as(both)).tolist()
            shift_is_better.setdefault(name, []).append(float(shift < blur))
    report: dict[str, Any] = {"sha256": load_judge("perceptual").sha256}
    for (name, ladder), values in ranks.items():
        report.setdefault(name, {})[ladder] = bootstrap(np.array(values))
    report["mean_distance"] = {ladder: np.mean(values, 0).round(4).tolist() for ladder, values in means.items()}
    report["shift_judged_better_than_blur"] = {
        name: bootstrap(np.array(values)) for name, values in shift_is_better.items()
    }
    return report


def _to_uint8(pictures: Tensor) -> Tensor:
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


def _rank_correlation(values: np.ndarray) -> float:
    """Spearman's, of a ladder's distances with its steps."""
    ranks = values.argsort().argsort()
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def crop(folder: Path) -> dict[str, Any]:
    """AUC of FaceRes by the share of the crop it sees, on the labelled pairs of a folder (file_x, file_y, Decision)."""
    from rayface.detector import load_detector
    from rayface.imaging.align import similarity, warp_crops
    from rayface.imaging.codec import decode
    from rayface.pretrained.faceres import load_faceres
    from rayface.records import FFHQ_TEMPLATE

    detector, crops = load_detector(), {}
    for path in sorted(folder.glob("*.jpg")):
        photo = decode(path.read_bytes())
        found = detector.detect([photo])[0]
        boxes, landmarks = (torch.as_tensor(values, dtype=torch.float32) for values in (found.boxes, found.landmarks))
        largest = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax()
        matrix = similarity(landmarks.reshape(-1, 5, 2)[largest][None], FFHQ_TEMPLATE, 256)
        crops[path.name] = warp_crops(photo, matrix, 256)[0]
    (table,) = folder.glob("*.csv")
    place = {name: index for index, name in enumerate(crops)}
    listed = list(csv.DictReader(table.read_text().splitlines()))
    rows = [row for row in listed if row["file_x"] in place and row["file_y"] in place]
    first, second = (np.array([place[row[key]] for row in rows]) for key in ("file_x", "file_y"))
    pairs = Pairs(first, second, np.array([row["Decision"] == "Yes" for row in rows]))
    report: dict[str, Any] = {"pairs": len(pairs)}
    for share in SHARES:
        with torch.inference_mode():
            embeddings = F.normalize(load_faceres(share)(to_float(torch.stack(list(crops.values())))), dim=1).numpy()
        scores = pairs.scores(embeddings)
        gap = float(scores[pairs.same].mean() - scores[~pairs.same].mean())
        report[str(share)] = {"auc": RankedScores(scores, pairs.same).auc(np.ones(len(pairs))), "mean_gap": gap}
    return report


TFJS = """
const tf = require('@tensorflow/tfjs'), fs = require('fs');
const [models, folder, count] = process.argv.slice(1);
const floats = name => { const b = fs.readFileSync(name); return b.buffer.slice(b.byteOffset, b.byteOffset + b.length)};
(async () => {
  const graph = JSON.parse(fs.readFileSync(models + '/faceres.json'));
  const model = await tf.loadGraphModel(tf.io.fromMemory({modelTopology: graph.modelTopology,
    signature: graph.signature, format: graph.format, weightSpecs: graph.weightsManifest[0].weights,
    weightData: floats(models + '/faceres.bin')}));
  const pictures = tf.tensor(new Float32Array(floats(folder + '/pictures')), [Number(count), 224, 224, 3]);
  const made = tf.unstack(pictures).map(p => model.execute(p.expandDims(0), 'global_pooling/Mean').dataSync());
  fs.writeFileSync(folder + '/embeddings', Buffer.concat(made.map(m => Buffer.from(m.buffer))));
})();
"""


def tfjs(data: str, modules: Path) -> dict[str, Any]:
    """The largest difference between the embeddings of our reader and of TensorFlow.js (its plain CPU backend)."""
    from rayface.pretrained.faceres import load_faceres
    from rayface.pretrained.human_models import ENVIRONMENT

    network = load_faceres()
    images = FaceDataset(data, "validation", 256).batch(range(4))["image"]
    assert isinstance(images, Tensor)
    pictures = network.pictures(to_float(images))
    with torch.inference_mode():
        ours = network.graph(pictures).numpy()
    with tempfile.TemporaryDirectory() as folder:
        pictures.numpy().astype("<f4").tofile(f"{folder}/pictures")
        command = ["node", "-e", TFJS, os.environ[ENVIRONMENT], folder, str(len(pictures))]
        subprocess.run(command, check=True, cwd=modules, stdout=subprocess.DEVNULL)
        theirs = np.fromfile(f"{folder}/embeddings", "<f4").reshape(ours.shape)
    return {
        "pictures": len(pictures),
        "largest_difference": float(abs(ours - theirs).max()),
        "largest_value": float(theirs.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("verify", "perceptual", "crop", "tfjs"))
    parser.add_argument("--data", default="", help="a dataset of `rayface data ingest`")
    parser.add_argument("--pairs", type=Path, help="a folder of photos with one table of labelled pairs")
    parser.add_argument("--modules", type=Path, help="the folder with node_modules/@tensorflow/tfjs")
    parser.add_argument("--limit", type=int, default=None, help="first so many photos only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    reports = {
        "verify": lambda: verify(arguments.data),
        "perceptual": lambda: perceptual(arguments.data, arguments.limit),
        "crop": lambda: crop(arguments.pairs),
        "tfjs": lambda: tfjs(arguments.data, arguments.modules),
    }
    report = reports[arguments.what]()
    terms = {name: judge.licence for name, judge in JUDGES.items()}
    print(json.dumps({**report, "licences": terms, "seconds": round(time.perf_counter() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
