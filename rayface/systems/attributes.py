"""Attributes (SPEC A1, `NetA`): face crop -> the 40 attributes of CelebA, as calibrated probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.codec import to_float, to_uint8
from rayface.networks.attribute_classifier import (
    AttributeClassifier,
    AttributeClassifierConfig,
    fit_calibration,
    truncate,
)
from rayface.networks.efficientnet_lite import EfficientNetLiteConfig
from rayface.records import ATTRIBUTES
from rayface.systems.base import Batch, Networks, OptimizerSpec, Phase, PhaseState, System, SystemConfig

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel

PROBE_PHOTOS = 1024  # at most, for the closed-form start: a solve of twice as many equations


@dataclass(frozen=True, kw_only=True)
class AttributesConfig(SystemConfig):
    classifier: AttributeClassifierConfig = field(default_factory=AttributeClassifierConfig)
    backbone: Literal["pretrained", "random"] = "pretrained"  # what a new training starts from
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    flip: bool = True
    jitter: float = 0.2  # brightness, contrast and saturation change by up to this factor
    shift: float = 0.03  # crops are moved, turned and scaled a little: a detector is never exact
    degrade: float = 0.2  # share of pictures that are made blurry, noisy or over-compressed first


def attribute_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy of logits [N, 40] against labels [N, 40] (1, -1; 0 unknown, ignored).

    Per face the mean over its known attributes; a face without any counts as 0.
    """
    known = (labels != 0).float()
    target = (1 + labels.float() * (1 - smoothing)) / 2
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none") * known
    return (losses.sum(1) / known.sum(1).clamp_min(1)).mean()


class Attributes(System):
    name = "attributes"
    config_class = AttributesConfig
    columns = ("image", "attributes")
    released = ("classifier",)

    def config(self, preset: str) -> AttributesConfig:
        if preset == "tiny":
            return AttributesConfig(
                size=64, global_batch=8, steps=20, checkpoint_every=10, sample_every=20, log_every=1,
                backbone="random", learning_rate=5e-3,
                classifier=AttributeClassifierConfig(EfficientNetLiteConfig(stages=3), stages=(2,), grid=4),
            )  # fmt: skip
        if preset == "small":
            # few steps: the pretrained features need little change, and there are few labelled photos
            # not bf16, in which depthwise convolutions are slower on a CPU (114 against 78 ms a face and core)
            return AttributesConfig(steps=240, checkpoint_every=20, sample_every=120, precision="tf32")
        return AttributesConfig(
            global_batch=128, steps=15_000, loader_processes=8, learning_rate=3e-4, ema_half_life=10_000,
            classifier=AttributeClassifierConfig(last_blocks=5),
        )  # fmt: skip

    def build(self, config: AttributesConfig) -> dict[str, nn.Module]:
        return {"classifier": AttributeClassifier(config.classifier)}

    def initial(
        self, config: AttributesConfig, dataset: "FaceDataset", frozen: Networks
    ) -> dict[str, nn.Module] | None:
        """The pretrained backbone with a read-out fitted to it in closed form.

        Fine-tuning that starts from a random read-out spoils pretrained features (Kumar et al., "Fine-Tuning can
        Distort Pretrained Features", ICLR 2022).
        """
        if config.backbone == "random":
            return None
        from rayface.pretrained.efficientnet import load_efficientnet_lite

        shape = config.classifier
        classifier = AttributeClassifier(shape)
        pretrained = load_efficientnet_lite(shape.backbone.variant, shape.backbone.stages)
        truncate(pretrained, shape.last_blocks)
        classifier.backbone.load_state_dict(pretrained.state_dict())
        classifier.fit_read_out(*probe_features(classifier, dataset))
        return {"classifier": classifier}

    def began_as(self, config: AttributesConfig) -> dict[str, str]:
        variant = config.classifier.backbone.variant
        return {"backbone": f"pretrained:efficientnet_lite{variant}"} if config.backbone == "pretrained" else {}

    def finish(
        self, networks: Networks, config: AttributesConfig, dataset: "FaceDataset", device: torch.device
    ) -> dict[str, Any]:
        """Calibrate on the validation split; without one the logits stay as trained."""
        from rayface.data.dataset import FaceDataset
        from rayface.errors import RayfaceError

        try:
            held_out = FaceDataset(dataset.path, "validation", config.size, self.labels)
        except RayfaceError as missing:
            return {"calibration": f"none: {missing}"}
        classifier = networks["classifier"]
        assert isinstance(classifier, AttributeClassifier)
        logits, labels = held_out_logits(classifier, held_out, config.global_batch, device)
        scale, bias = fit_calibration(logits, labels)
        classifier.calibrate(scale.to(device), bias.to(device))
        return {"calibration": {"split": "validation", "photos": len(labels), "data": held_out.digest}}

    def optimizers(self, config: AttributesConfig) -> dict[str, OptimizerSpec]:
        return {
            "main": OptimizerSpec(
                ("classifier",), config.learning_rate, weight_decay=config.weight_decay,
                warmup_steps=min(100, config.steps // 10), decay="cosine",
            )
        }  # fmt: skip

    def phases(self, config: AttributesConfig) -> list[Phase]:
        return [Phase("classifier", "main", self._loss)]

    def _loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        logits, labels = networks["classifier"](batch["image"]), batch["attributes"]
        correct = (((logits >= 0) == (labels > 0)) & (labels != 0)).sum(1) / (labels != 0).sum(1).clamp_min(1)
        return attribute_loss(logits, labels, state.config.label_smoothing), {"accuracy": correct.mean()}

    def prepare(
        self, batch: dict[str, Any], config: AttributesConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        from rayface.data.augmentation import jitter_colour, mirror_images, move_images
        from rayface.data.degradation import degrade_some

        images = move_images(to_float(batch["image"]), config.shift, generators)
        if config.flip:
            images = mirror_images(images, generators)
        images = jitter_colour(images, config.jitter, generators)
        images = degrade_some(images, config.degrade, generators)
        return {"image": images, "attributes": batch["attributes"]}

    def evaluate(
        self,
        networks: Networks,
        config: AttributesConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.attributes import attribute_report

        def predict(images: Tensor) -> Tensor:
            return classify(networks["classifier"], images, device)

        return attribute_report(predict, dataset, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: AttributesConfig) -> Tensor:
        images, labels = to_uint8(batch["image"][:6]), batch["attributes"][:6].cpu()
        found = networks["classifier"](batch["image"][:6]).float().sigmoid().cpu()
        return captioned(images, [describe(*pair) for pair in zip(found, labels, strict=True)])

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "Classifier":
        return Classifier(loaded, torch.device(device))


@torch.inference_mode()
def probe_features(classifier: AttributeClassifier, dataset: "FaceDataset") -> tuple[Tensor, Tensor]:
    """Of the first PROBE_PHOTOS faces and of their mirror images: (features float [2, N, F], labels int8 [N, 40])."""
    features, labels = [], []
    total = min(len(dataset), PROBE_PHOTOS)
    for start in range(0, total, 16):
        columns = dataset.batch(range(start, min(start + 16, total)), ("image", "attributes"))
        images = to_float(columns["image"])  # type: ignore[arg-type]
        features.append(torch.stack([classifier.features(images), classifier.features(images.flip(-1))]))
        labels.append(columns["attributes"])
    return torch.cat(features, 1), torch.cat(labels)  # type: ignore[arg-type]


@torch.inference_mode()
def held_out_logits(
    classifier: nn.Module, dataset: "FaceDataset", batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(logits float [N, 40], labels int8 [N, 40]) of a dataset's faces, on the CPU."""
    logits, labels = [], []
    for start in range(0, len(dataset), batch):
        columns = dataset.batch(range(start, min(start + batch, len(dataset))), ("image", "attributes"))
        logits.append(classifier(to_float(columns["image"].to(device))).cpu())  # type: ignore[union-attr]
        labels.append(columns["attributes"])
    return torch.cat(logits), torch.cat(labels)  # type: ignore[arg-type]


@torch.inference_mode()
def classify(classifier: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """Crops uint8 [N, 3, S, S] -> probabilities float [N, 40] on the CPU."""
    return classifier(to_float(crops.to(device))).sigmoid().cpu()


def describe(probabilities: Tensor, labels: Tensor) -> list[str]:
    """Lines about one face for people: what is found or labelled, "+" found wrongly, "-" missed; "?" not labelled."""
    lines = []
    for name, probability, label in zip(ATTRIBUTES, probabilities.tolist(), labels.tolist(), strict=True):
        found = probability >= 0.5
        if found or label > 0:
            mark = "?" if label == 0 else " " if label > 0 and found else "+" if found else "-"
            lines.append(f"{mark} {name} {probability:.2f}")
    return lines


def captioned(images: Tensor, captions: Sequence[Sequence[str]]) -> Tensor:
    """Pictures uint8 [N, 3, S, S] side by side with lines of text under each: uint8 [3, H, W]."""
    from PIL import Image, ImageDraw

    side, line, width = images.shape[-1], 11, max(images.shape[-1], 170)
    height = side + line * (1 + max(map(len, captions)))
    picture = Image.new("RGB", (width * len(images), height), "white")
    draw = ImageDraw.Draw(picture)
    for column, (image, lines) in enumerate(zip(images.cpu(), captions, strict=True)):
        picture.paste(Image.fromarray(image.permute(1, 2, 0).numpy()), (column * width, 0))
        draw.multiline_text((column * width + 2, side), "\n".join(lines), "black", spacing=0)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class Classifier:
    """The attributes at serving: `classify` gives probabilities, there is no changed crop."""

    name = "attributes"

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device = device
        self.classifier = loaded.networks["classifier"].to(device).to(memory_format=torch.channels_last)
        self.attributes = ATTRIBUTES

    def classify(self, crops: Tensor) -> Tensor:
        """Crops uint8 [N, 3, S, S] of this step's size -> probabilities float [N, 40]; yes is 0.5 and above."""
        return classify(self.classifier, crops, self.device)
