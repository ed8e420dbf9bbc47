"""Do drawn faces look like photos of people nobody trained on, and are they new? (SPEC D1)"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rayface.evaluation.judges import ask, judging
from rayface.imaging.filters import resize_images
from rayface.randomness import generator as seeded

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset

SIDE = 256  # of the crops that judges see
MOST = 500  # faces of each kind
EIGENFACE_SIDE, EIGENFACES, EIGENFACE_PHOTOS = 64, 100, 1000
COPIED = 1  # percent of held-out photos that are as near to a training photo by chance
Draw = Callable[[int, int], Tensor]  # first, count -> faces uint8 [count, 3, S, S], always the same


class _Pooled(nn.Module):
    """The perceptual judge's deepest features, mean over places: float [N, C]."""

    def __init__(self, look: nn.Module) -> None:
        super().__init__()
        self.look = look

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images)[-1].mean((2, 3))


def generation_report(
    draw: Draw, held_out: "FaceDataset", trained_on: "FaceDataset", batch: int, limit: int | None
) -> dict[str, Any]:
    """Fréchet distances (Heusel et al. 2017) to held-out photos, and how near drawn faces are to training photos.

    `frechet`: in features of EfficientNet-Lite1 (ImageNet, pooled), `frechet_identity`: in dlib's embeddings; of as
    many drawn faces as there are photos, of training photos (`photos`: what a perfect generator reaches) and of
    `eigenfaces` (random ones, 100 components: the classical generator). `nearest`: median distance (dlib) to
    the nearest training photo, mirrored or not, of drawn faces and of held-out photos; `copied`: share of drawn faces
    that are nearer than all but 1 % of held-out photos. {} where the judges are missing, or there are
    less than two faces. Training photos are the train split of the data set that is evaluated on.
    """
    panel = judging()
    count = min(len(held_out), len(trained_on), limit or MOST, MOST)
    judges: dict[str, nn.Module] = {}
    if (look := panel.network("perceptual", ("frechet",))) is not None:
        judges["frechet"] = _Pooled(look)
    if (identity := panel.network("identity", ("frechet_identity", "nearest", "copied"))) is not None:
        judges["frechet_identity"] = identity
    if not judges or count < 2:
        return {}

    def photos(dataset: "FaceDataset", total: int) -> Draw:
        chosen = seeded(0, stream="photos for a Fréchet distance").permutation(len(dataset))[:total]

        def some(first: int, number: int) -> Tensor:
            crops = dataset.batch(np.sort(chosen)[first : first + number], ("image",))["image"]
            assert isinstance(crops, Tensor)
            return crops

        return some

    components = min(len(trained_on), EIGENFACE_PHOTOS)
    eigenfaces = Eigenfaces(photos(trained_on, components), components, batch)
    kinds: dict[str, Draw] = {"model": draw, "photos": photos(trained_on, count), "eigenfaces": eigenfaces}
    device = panel.device
    wanted = _seen(judges, photos(held_out, count), count, batch, device)
    report: dict[str, Any] = {"faces": count}
    drawn: Mapping[str, Tensor] = {}
    for kind, source in kinds.items():
        features = _seen(judges, source, count, batch, device)
        report[kind] = {name: frechet_distance(features[name], wanted[name]) for name in features}
        drawn = features if kind == "model" else drawn
    if identity is not None:
        own = {"identity": identity}
        known = _seen(own, photos(trained_on, len(trained_on)), len(trained_on), batch, device)["identity"]
        mirrored = _seen(own, _mirrored(photos(trained_on, len(trained_on))), len(trained_on), batch, device)[
            "identity"
        ]
        known = torch.cat([known, mirrored])
        ours, theirs = (torch.cdist(f["frechet_identity"], known).amin(1).numpy() for f in (drawn, wanted))
        report["nearest"] = {"model": float(np.median(ours)), "held_out": float(np.median(theirs))}
        report["copied"] = float((ours < np.percentile(theirs, COPIED)).mean())
    return report


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """Between normal distributions fitted to features float [N, D] and [M, D]; biased upwards for few of them."""
    ours, theirs = ours.double(), theirs.double()
    means = (ours.mean(0) - theirs.mean(0)).square().sum()
    first, second = torch.cov(ours.T), torch.cov(theirs.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float(means + first.trace() + second.trace() - 2 * cross)


class Eigenfaces:
    """Faces drawn from a normal distribution over the principal components of photos (Turk and Pentland 1991)."""

    def __init__(self, photos: Draw, total: int, batch: int) -> None:
        parts = [photos(first, min(batch, total - first)) for first in range(0, total, batch)]
        pixels = torch.cat([resize_images(part, EIGENFACE_SIDE) for part in parts]).float().flatten(1)
        self.mean = pixels.mean(0)
        _, values, faces = torch.linalg.svd(pixels - self.mean, full_matrices=False)
        values, self.faces = values[:EIGENFACES], faces[:EIGENFACES].T
        self.spread = values / max(len(pixels) - 1, 1) ** 0.5

    def __call__(self, first: int, count: int) -> Tensor:
        random = [
            seeded(0, face, stream="eigenfaces").standard_normal(len(self.spread))
            for face in range(first, first + count)
        ]
        shares = torch.from_numpy(np.stack(random)).float() * self.spread
        pixels = (self.mean + shares @ self.faces.T).clamp(0, 255).round().byte()
        return pixels.unflatten(1, (3, EIGENFACE_SIDE, EIGENFACE_SIDE))


def _mirrored(source: Draw) -> Draw:
    return lambda first, count: source(first, count).flip(3)


def _seen(
    judges: Mapping[str, nn.Module], source: Draw, total: int, batch: int, device: torch.device
) -> dict[str, Tensor]:
    """What the judges see in `total` faces: for each float [total, D]."""
    parts: dict[str, list[Tensor]] = {name: [] for name in judges}
    for first in range(0, total, batch):
        crops = resize_images(source(first, min(batch, total - first)), SIDE)
        for name, network in judges.items():
            parts[name].append(ask(network, crops, device))
    return {name: torch.cat(part) for name, part in parts.items()}
