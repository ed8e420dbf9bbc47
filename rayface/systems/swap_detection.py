"""Swap detection (SPEC E6): aligned face crop -> the probability that the face was swapped.

It learns from a set of swaps (`rayface data swaps`) and from self-blended faces (`data.self_blending`), which no swap
method made, so that it also tells methods that it never saw. Where the set holds no swaps, from the latter alone. The
classical method `blend` is left out of training wherever it stands: it is what that is measured on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.sampling import RatioSampler, Sampler
from rayface.errors import RayfaceError
from rayface.evaluation.swap_detection import UNSEEN
from rayface.imaging.codec import to_float, to_uint8
from rayface.networks.attribute_classifier import fit_calibration, truncate
from rayface.networks.efficientnet_lite import EfficientNetLiteConfig
from rayface.networks.swap_detector import CELL, SwapDetector, SwapDetectorConfig, middle_part
from rayface.randomness import generator
from rayface.systems.attributes import captioned
from rayface.systems.base import Batch, Networks, OptimizerSpec, Phase, PhaseState, System, SystemConfig

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.data.degradation import DegradationConfig
    from rayface.store import LoadedModel

SWAP_ROWS = 1 / 3  # share of a batch's rows that are swaps of the set; each other row is seen as it is and self-blended
REAL, SWAP, LEFT_OUT = 0, 1, -1  # classes of a set's faces


@dataclass(frozen=True, kw_only=True)
class SwapDetectionConfig(SystemConfig):
    detector: SwapDetectorConfig = field(default_factory=SwapDetectorConfig)
    backbone: Literal["pretrained", "random"] = "pretrained"  # what a new training starts from
    methods: tuple[str, ...] = ()  # swaps that the training data holds; filled in by `fitted`
    self_blended: float = 0.5  # weight of self-blended faces among the fakes, where the data holds swaps too
    map_weight: float = 1.0  # of the map of what was put there, known for self-blended faces
    learning_rate: float = 5e-4
    weight_decay: float = 0.02
    jitter: float = 0.15  # brightness, contrast and saturation change by up to this factor
    shift: float = 0.02  # crops are moved, turned and scaled a little: a detector is never exact
    degrade: float = 0.7  # share of rows that are blurred, made smaller, noisy and compressed (JPEG 30 to 100) first

    @property
    def weights(self) -> tuple[float, float]:
        """Of a row's self-blended face and of a row that is a swap: fakes weigh as much as real faces in all."""
        if not self.methods:
            return 1.0, 0.0
        return self.self_blended, (1 - self.self_blended) * (1 - SWAP_ROWS) / SWAP_ROWS


class SwapDetection(System):
    name = "swap_detection"
    config_class = SwapDetectionConfig
    columns = ("image", "landmarks", "swap_method")
    released = ("detector",)
    step_name = "detect_swap"
    ablations = {  # noqa: RUF012
        "no-self-blending": ("self_blended=0",),
        "no-map": ("map_weight=0",),
        "no-degradation": ("degrade=0",),
    }
    ablation_metrics = ("unseen.blend.auc", "unseen.blend.auc_jpeg70", "unseen.blend.auc_half", "false_alarms.real")

    @property
    def labels(self) -> list[str]:
        """None: `swap_method` is null for real photos, and every face has landmarks."""
        return []

    def config(self, preset: str) -> SwapDetectionConfig:
        if preset == "tiny":
            return SwapDetectionConfig(
                size=64, global_batch=8, steps=20, checkpoint_every=10, sample_every=20, log_every=1,
                backbone="random", learning_rate=5e-3,
                detector=SwapDetectorConfig(EfficientNetLiteConfig(stages=4), 1, (8, 8, 8), 8),
            )  # fmt: skip
        if preset == "small":
            # not bf16, in which depthwise convolutions are slower on a CPU
            return SwapDetectionConfig(
                steps=600, checkpoint_every=50, sample_every=200, precision="tf32", ema_half_life=1_000
            )
        return SwapDetectionConfig(global_batch=128, steps=20_000, loader_processes=8, ema_half_life=10_000)

    def check(self, config: SwapDetectionConfig) -> None:
        super().check(config)
        step = 4 * CELL  # three quarters of the side are looked at, in whole cells
        if config.size % step:
            nearest = -(-config.size // step) * step
            raise RayfaceError(f"size={config.size} must be divisible by {step}; try {nearest}")
        if not 0 <= config.self_blended <= 1:
            raise RayfaceError(f"self_blended={config.self_blended}: give a share from 0 to 1")

    def build(self, config: SwapDetectionConfig) -> dict[str, nn.Module]:
        return {"detector": SwapDetector(config.detector)}

    def fitted(self, config: SwapDetectionConfig, dataset: "FaceDataset") -> SwapDetectionConfig:
        methods = sorted({method for method in methods_of(dataset) if method not in (None, UNSEEN)})
        if not methods and config.self_blended == 0:
            raise RayfaceError(
                f"{dataset.path} holds no swaps to train on, and self_blended=0 leaves self-blended faces out; make a "
                "set with `rayface data swaps`, or leave self_blended as it is",
                kind="missing-column",
            )
        return replace(config, methods=tuple(methods))

    def initial(
        self, config: SwapDetectionConfig, dataset: "FaceDataset", frozen: Networks
    ) -> dict[str, nn.Module] | None:
        if config.backbone == "random":
            return None
        from rayface.pretrained.efficientnet import load_efficientnet_lite

        shape = config.detector
        detector = SwapDetector(shape)
        pretrained = load_efficientnet_lite(shape.backbone.variant, shape.backbone.stages)
        truncate(pretrained, shape.last_blocks)
        detector.backbone.load_state_dict(pretrained.state_dict())
        return {"detector": detector}

    def began_as(self, config: SwapDetectionConfig) -> dict[str, str]:
        variant = config.detector.backbone.variant
        return {"backbone": f"pretrained:efficientnet_lite{variant}"} if config.backbone == "pretrained" else {}

    def finish(
        self, networks: Networks, config: SwapDetectionConfig, dataset: "FaceDataset", device: torch.device
    ) -> dict[str, Any]:
        """Calibrate on the validation split; without one the logits stay as trained."""
        from rayface.data.dataset import FaceDataset

        try:
            held_out = FaceDataset(dataset.path, "validation", config.size)
        except RayfaceError as missing:
            return {"calibration": f"none: {missing}"}
        detector = networks["detector"]
        assert isinstance(detector, SwapDetector)
        logits, labels = held_out_logits(detector, held_out, config, device)
        scale, bias = fit_calibration(logits[:, None], labels[:, None])
        detector.calibrate(float(scale), float(bias))
        fakes = list(config.methods) or ["self-blended"]
        return {
            "calibration": {
                "split": "validation", "photos": len(labels), "fakes": fakes,
                "share": float((labels > 0).float().mean()), "data": held_out.digest,
            }
        }  # fmt: skip

    def optimizers(self, config: SwapDetectionConfig) -> dict[str, OptimizerSpec]:
        return {
            "main": OptimizerSpec(
                ("detector",), config.learning_rate, weight_decay=config.weight_decay,
                warmup_steps=min(50, config.steps // 10), decay="cosine",
            )
        }  # fmt: skip

    def phases(self, config: SwapDetectionConfig) -> list[Phase]:
        return [Phase("detector", "main", self._loss)]

    def sampler(self, config: SwapDetectionConfig, dataset: "FaceDataset") -> Sampler:
        methods = methods_of(dataset)
        classes = np.array([REAL if m is None else LEFT_OUT if m == UNSEEN else SWAP for m in methods], np.int64)
        if not (classes == REAL).any():
            raise RayfaceError(f"{dataset.path} has no real face to train on; every one is a swap", kind="bad-labels")
        swaps = SWAP_ROWS if (classes == SWAP).any() and config.weights[1] > 0 else 0.0
        return RatioSampler(classes, (1 - swaps, swaps), config.seed, config.global_batch)

    def prepare(
        self, batch: dict[str, Any], config: SwapDetectionConfig, generators: Sequence[np.random.Generator]
    ) -> Batch:
        from rayface.data.self_blending import self_blend

        images = to_float(batch["image"])
        blended, masks = self_blend(images, batch["landmarks"], generators)
        seeds = [int(random.integers(2**63)) for random in generators]
        # a photo and its self-blended copy meet the same changes, so that only the blending tells them apart
        images, _ = augmented(images, torch.zeros_like(masks), config, seeds)
        blended, masks = augmented(blended, masks, config, seeds)
        cells = F.avg_pool2d(middle_part(masks[:, None]), CELL)[:, 0]
        return {
            "image": images,
            "blended": blended,
            "map": cells / masks.amax((1, 2))[:, None, None].clamp_min(0.1),
            "swapped": torch.tensor([method is not None for method in batch["swap_method"]]),
        }

    def _loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        config, swapped = state.config, batch["swapped"]
        of_blended, of_swap = config.weights
        real = ~swapped
        pictures = torch.cat([batch["image"], batch["blended"][real]])
        logits, maps = networks["detector"](pictures, with_maps=True)
        own, blended = logits.float().split([len(swapped), int(real.sum())])
        own_maps, blended_maps = maps.float().split([len(swapped), int(real.sum())])
        cost = F.softplus(own) * real + of_swap * F.softplus(-own) * swapped
        wanted = batch["map"][real].clamp(0, 1)
        of_map = F.softplus(own_maps).mean((1, 2)) * real
        theirs = F.binary_cross_entropy_with_logits(blended_maps, wanted, reduction="none").mean((1, 2))
        total = cost.sum() + of_blended * F.softplus(-blended).sum()
        mapped = of_map.sum() + theirs.sum()
        correct = ((own > 0) == swapped).sum() + (blended > 0).sum()
        loss = (total + config.map_weight * mapped) / len(swapped)
        return loss, {"accuracy": correct / len(pictures), "map": mapped / len(swapped)}

    def evaluate(
        self,
        networks: Networks,
        config: SwapDetectionConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.swap_detection import swap_report

        def judge(crops: Tensor) -> Tensor:
            return probabilities(networks["detector"], crops, device)

        return swap_report(judge, dataset, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: SwapDetectionConfig) -> Tensor:
        images = torch.cat([batch["image"][:4], batch["blended"][:4]])
        found = networks["detector"](images).float().sigmoid().tolist()
        said = [*("swap" if swapped else "real" for swapped in batch["swapped"][:4]), *["self-blended"] * 4]
        return captioned(to_uint8(images.cpu()), [[f"{what} {p:.2f}"] for what, p in zip(said, found, strict=False)])

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "SwapJudge":
        return SwapJudge(loaded, torch.device(device))


def methods_of(dataset: "FaceDataset") -> list[str | None]:
    """How each face was swapped; None: not at all."""
    return list(dataset.batch(range(len(dataset)), ("swap_method",))["swap_method"])


def degradation() -> "DegradationConfig":
    """What pictures go through on their way to a detector: at 256 px down to half the size, JPEG 30 to 100."""
    from rayface.data.degradation import DegradationConfig

    return DegradationConfig(
        blur_sigma=(0.1, 2.4), downsample=(0.8, 4.4), noise=(0.0, 8 / 255), jpeg_quality=(30.0, 100.0),
        colour_probability=0.0,
    )  # fmt: skip


def augmented(
    images: Tensor, masks: Tensor, config: SwapDetectionConfig, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Images float [N, 3, S, S] in [-1, 1] and masks [N, S, S], changed alike; the same seed makes the same change."""
    from rayface.data.augmentation import jitter_colour, mirror_images, move_images
    from rayface.data.degradation import degrade

    generators = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]
    both = mirror_images(torch.cat([images, masks[:, None]], 1), generators)
    both = move_images(both, config.shift, generators)
    images, masks = both[:, :3], both[:, 3]
    images = jitter_colour(images, config.jitter, generators)
    for index, random in enumerate(generators):
        if random.random() < config.degrade:
            images[index : index + 1] = degrade(images[index : index + 1], degradation(), [random])
    return images, masks


@torch.inference_mode()
def held_out_logits(
    detector: nn.Module, dataset: "FaceDataset", config: SwapDetectionConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(logits float [M], labels int8 [M], 1 for fakes) of a set's real faces and its swaps, on the CPU.

    Swaps are those of the methods trained on; without any, every real face counts self-blended too.
    """
    from rayface.data.self_blending import self_blend

    methods, logits, labels = methods_of(dataset), [], []
    chosen = [i for i, method in enumerate(methods) if method is None or method in config.methods]
    for start in range(0, len(chosen), config.global_batch):
        some = chosen[start : start + config.global_batch]
        columns = dataset.batch(some, ("image", "landmarks"))
        images = to_float(columns["image"])  # type: ignore[arg-type]
        label = torch.tensor([-1 if methods[index] is None else 1 for index in some], dtype=torch.int8)
        if not config.methods:
            generators = [generator(config.seed, 0, index, "calibration") for index in some]
            images = torch.cat([images, self_blend(images, columns["landmarks"], generators)[0]])  # type: ignore[arg-type]
            label = torch.cat([label, -label])
        logits.append(detector(images.to(device)).float().cpu())
        labels.append(label)
    return torch.cat(logits), torch.cat(labels)


@torch.inference_mode()
def probabilities(detector: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """Crops uint8 [N, 3, S, S] -> the probability that each face was swapped, float [N] on the CPU."""
    return detector(to_float(crops.to(device))).float().sigmoid().cpu()


class SwapJudge:
    """Swap detection at serving: `judge` gives probabilities, there is no changed crop."""

    name = "detect_swap"

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device = device
        self.detector = loaded.networks["detector"].to(device).to(memory_format=torch.channels_last)

    def judge(self, crops: Tensor) -> Tensor:
        """Crops uint8 [N, 3, S, S] of this step's size -> probabilities float [N]; swapped is 0.5 and above."""
        return probabilities(self.detector, crops, self.device)
