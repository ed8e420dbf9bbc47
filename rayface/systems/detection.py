"""Detection (SPEC F1): the three networks of the cascade, trained on windows of aligned face crops.

`rayface.detector` runs them on photos; `data.windows` cuts and labels what they are trained on. Losses and their
weights are those of MTCNN (K. Zhang et al., IEEE Signal Processing Letters 2016): cross-entropy of face or not,
squared distances of box offsets and landmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.windows import draw_windows, face_boxes, place_faces, window_targets
from rayface.detector import Detector, load_detector
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.pyramid import Pyramid
from rayface.networks.mtcnn import Mtcnn, MtcnnConfig, OutputNet, RefinementNet
from rayface.systems.base import Batch, ExportView, Networks, OptimizerSpec, Phase, PhaseState, System, SystemConfig

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

NETWORKS = ("proposal", "refinement", "output")
LEAST_SIZE = 48  # of a crop: what the output network sees of a face


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(SystemConfig):
    """The defaults are for a short run from the released weights (`--init detection`); presets start from nothing."""

    mtcnn: MtcnnConfig = field(default_factory=MtcnnConfig)
    steps: int = 400
    # landmarks are a fraction of a pixel, which bf16 would round away
    precision: Literal["bf16", "tf32", "fp32"] = "fp32"
    learning_rate: float = 1e-4
    windows: tuple[int, int, int] = (3, 2, 7)  # of each picture: showing the face, part of it, none
    hard_windows: float = 0.7  # the hardest share of a picture's windows teaches face or none
    box_weight: float = 0.5
    landmark_weight: float = 1.0
    sizes: tuple[float, float] = (0.4, 1.1)  # crops are scaled by this; small faces in a large picture
    turn: float = 12.0  # and turned, standard deviation in degrees
    jitter: float = 0.25  # brightness, contrast and saturation change by up to this factor
    degrade: float = 0.3  # share of pictures that are made blurry, noisy or over-compressed first


class Detection(System):
    name = "detection"
    config_class = DetectionConfig
    columns = ("image", "landmarks")
    released = NETWORKS
    step_name = "detect"

    def config(self, preset: str) -> DetectionConfig:
        if preset == "tiny":
            narrow = MtcnnConfig((6, 8, 16), (8, 12, 16, 32), (8, 16, 16, 32, 64))
            return DetectionConfig(
                size=64, global_batch=8, steps=20, mtcnn=narrow, windows=(2, 2, 4), learning_rate=1e-3,
                checkpoint_every=10, sample_every=20, log_every=1,
            )  # fmt: skip
        if preset == "small":
            return DetectionConfig(steps=4_000, learning_rate=1e-3)
        return DetectionConfig(
            global_batch=64, steps=30_000, learning_rate=1e-3, loader_processes=8, checkpoint_every=1000
        )

    def check(self, config: DetectionConfig) -> None:
        super().check(config)
        if config.size < LEAST_SIZE:
            raise RayfaceError(f"size={config.size} must be at least {LEAST_SIZE}")
        if min(config.windows) < 1:
            raise RayfaceError(f"windows={config.windows}: at least one of each kind is needed")
        if not 0 < config.sizes[0] <= config.sizes[1]:
            raise RayfaceError(f"sizes={config.sizes}: give the smaller one, above 0, first")
        if not 0 < config.hard_windows <= 1:
            raise RayfaceError(f"hard_windows={config.hard_windows} must be above 0 and at most 1")

    def build(self, config: DetectionConfig) -> dict[str, nn.Module]:
        return dict(Mtcnn(config.mtcnn).named_children())

    def optimizers(self, config: DetectionConfig) -> dict[str, OptimizerSpec]:
        warmup = min(100, config.steps // 10)
        return {
            name: OptimizerSpec((name,), config.learning_rate, warmup_steps=warmup, decay="cosine") for name in NETWORKS
        }

    def phases(self, config: DetectionConfig) -> list[Phase]:
        return [Phase(name, name, partial(self._loss, name)) for name in NETWORKS]

    def _loss(self, name: str, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        """One network's loss on its windows of each picture (`prepare`), faces first, then parts, then none.

        Landmarks are taught on faces alone: the output network meets them well framed.
        """
        config, windows = state.config, batch[name]
        faces, parts, _ = config.windows
        logit, offsets, *points = networks[name](windows.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        judged = logit.reshape(windows.shape[:2])
        judged = torch.cat([judged[:, :faces], judged[:, faces + parts :]], 1)
        truth = torch.zeros_like(judged)
        truth[:, :faces] = 1
        face = hard_mean(F.binary_cross_entropy_with_logits(judged, truth, reduction="none"), config.hard_windows)
        box = _distance(offsets, batch["offsets"], faces + parts)
        terms = {"face": face.mean(), "box": box.mean()}
        loss = face + config.box_weight * box
        if points:
            landmarks = _distance(points[0], batch["landmarks"], faces)
            terms["landmarks"] = landmarks.mean()
            loss = loss + config.landmark_weight * landmarks
        terms["accuracy"] = ((judged > 0) == (truth > 0)).float().mean()
        return loss.mean(), terms

    def prepare(
        self, batch: dict[str, Any], config: DetectionConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        """Float windows `{network: [N, K, 3, side, side]}` and what they show: see `data.windows.window_targets`."""
        from rayface.data.augmentation import jitter_colour
        from rayface.data.degradation import degrade_some

        pictures, landmarks = place_faces(batch["image"], batch["landmarks"], config.sizes, config.turn, generators)
        images = degrade_some(jitter_colour(to_float(pictures), config.jitter, generators), config.degrade, generators)
        boxes = face_boxes(landmarks)
        windows = draw_windows(boxes, config.size, config.windows, generators)
        offsets, points = window_targets(windows, boxes, landmarks)
        return {**cut(to_uint8(images), windows), "offsets": offsets, "landmarks": points}

    def evaluate(
        self,
        networks: Networks,
        config: DetectionConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.detection import detection_report

        detectors = {"model": Detector(cascade(networks), device=device), "release": load_detector(device=device)}
        return detection_report(detectors, dataset, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: DetectionConfig) -> Tensor:
        """Windows that show a face: labelled landmarks above, found ones below."""
        from rayface.evaluation.pictures import grid, mark

        windows = batch["output"][:6, 0]
        _, _, found = networks["output"](windows)
        large = to_uint8(F.interpolate(windows.cpu(), scale_factor=4.0, mode="bilinear"))
        return grid([mark(large, points.reshape(-1, 2, 5).mT) for points in (batch["landmarks"][:6, 0], found)])

    def export_views(self, networks: Networks, config: DetectionConfig) -> dict[str, ExportView]:
        outputs = ("logit", "offsets", "landmarks")
        window = "a window around a candidate"
        return {
            "proposal": ExportView(networks["proposal"], LEAST_SIZE, outputs[:2], True, shows="a whole picture"),
            "refinement": ExportView(networks["refinement"], RefinementNet.window, outputs[:2], shows=window),
            "output": ExportView(networks["output"], OutputNet.window, outputs, shows=window),
        }

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> Detector:
        return Detector(cascade(loaded.networks), device=device, model=loaded.ref)


def cascade(networks: Networks) -> Mtcnn:
    """The three networks as the one module that `Detector` takes; not copied."""
    joined = Mtcnn()
    for name in NETWORKS:
        setattr(joined, name, networks[name])
    return joined


def cut(pictures: Tensor, windows: Tensor) -> Batch:
    """Windows [N, K, 4] of pictures uint8 [N, 3, S, S] as each network sees them, float32 [N, K, 3, side, side].

    Those of the last two are read as `Detector` reads them. The proposal network looks at whole reduced pictures there;
    a window read twice as large and averaged is as free of aliasing.
    """
    count, each = windows.shape[:2]
    pyramid = Pyramid(pictures, largest=pictures.shape[-1])
    owner = torch.arange(count).repeat_interleave(each)
    edges = windows.flatten(0, 1) + 0.5  # the pyramid counts from the outer edge of the first pixel
    read = {side: pyramid.windows(edges, owner, side).unflatten(0, (count, each)) for side in (24, 48)}
    halved = F.avg_pool2d(read[24].flatten(0, 1), 2).unflatten(0, (count, each))
    return {"proposal": halved, "refinement": read[24], "output": read[48]}


def hard_mean(losses: Tensor, share: float) -> Tensor:
    """Mean of the hardest `share` of each row of [N, K], float [N].

    MTCNN's online hard sample mining takes the hardest of a batch; those of each picture are the same on any number of
    ranks.
    """
    return losses.topk(max(1, round(losses.shape[1] * share)), dim=1).values.mean(1)


def _distance(found: Tensor, wanted: Tensor, count: int) -> Tensor:
    """Mean squared distance over the first `count` windows of each picture: [N * K, D, ...], [N, K, D] -> [N]."""
    squares = (found.reshape(wanted.shape).float() - wanted).square().sum(2)
    return squares[:, :count].mean(1)
