"""Parsing (SPEC A2, `NetS`): face crop -> mask of the 19 classes of CelebAMask-HQ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.imaging.codec import to_float, to_uint8
from rayface.networks.parser import Parser, ParserConfig
from rayface.records import PARSING_CLASSES, PARSING_COLOURS, PARSING_FLIP
from rayface.systems.base import Batch, Networks, OptimizerSpec, Phase, PhaseState, System, SystemConfig, check_size

if TYPE_CHECKING:
    from rayface.data.dataset import FaceDataset
    from rayface.store import LoadedModel


@dataclass(frozen=True, kw_only=True)
class ParsingConfig(SystemConfig):
    parser: ParserConfig = field(default_factory=ParserConfig)
    learning_rate: float = 1e-3
    hard_pixels: float = 0.5  # the loss also averages this hardest share of each picture's pixels
    flip: bool = True
    jitter: float = 0.25  # brightness, contrast and saturation change by up to this factor
    shift: float = 0.06  # crops are moved, turned and scaled a little: a detector is never exact
    degrade: float = 0.3  # share of pictures that are made blurry, noisy or over-compressed first


def parsing_loss(logits: Tensor, target: Tensor, hard_pixels: float) -> Tensor:
    """Cross-entropy of float logits [N, 19, S, S] against ids [N, S, S]: per picture, all pixels plus the hardest.

    Hard pixels are chosen per picture (not per batch, as in BiSeNet's OHEM), so the loss is the same on any number
    of ranks.
    """
    pixels = F.cross_entropy(logits.float(), target.long(), reduction="none").flatten(1)
    hardest = pixels.topk(max(1, int(pixels.shape[1] * hard_pixels)), dim=1).values
    return (pixels.mean(1) + hardest.mean(1)).mean()


class Parsing(System):
    name = "parsing"
    config_class = ParsingConfig
    columns = ("image", "mask")
    released = ("parser",)
    step_name = "parse"

    def config(self, preset: str) -> ParsingConfig:
        if preset == "tiny":
            return ParsingConfig(
                size=64, global_batch=8, steps=20, parser=ParserConfig(widths=(8, 16, 16)), checkpoint_every=10,
                sample_every=20, log_every=1,
            )  # fmt: skip
        if preset == "small":
            return ParsingConfig()
        return ParsingConfig(
            size=512, global_batch=32, steps=60_000, loader_processes=8, checkpoint_every=1000,
            parser=ParserConfig(widths=(32, 64, 128, 256, 320, 384), blocks=2),
        )  # fmt: skip

    def check(self, config: ParsingConfig) -> None:
        super().check(config)
        check_size(config.size, config.parser.widths)

    def build(self, config: ParsingConfig) -> dict[str, nn.Module]:
        return {"parser": Parser(config.parser)}

    def optimizers(self, config: ParsingConfig) -> dict[str, OptimizerSpec]:
        return {
            "main": OptimizerSpec(
                ("parser",), config.learning_rate, weight_decay=1e-4, warmup_steps=min(200, config.steps // 10),
                decay="poly",
            )
        }  # fmt: skip

    def phases(self, config: ParsingConfig) -> list[Phase]:
        return [Phase("parser", "main", self._loss)]

    def _loss(self, batch: Batch, networks: Networks, state: PhaseState) -> tuple[Tensor, dict[str, Tensor]]:
        logits = networks["parser"](batch["image"])
        loss = parsing_loss(logits, batch["mask"], state.config.hard_pixels)
        accuracy = (logits.argmax(1) == batch["mask"]).float().mean()
        return loss, {"pixel_accuracy": accuracy}

    def prepare(self, batch: dict[str, Any], config: ParsingConfig, generators: Sequence[np.random.Generator]) -> Batch:
        from rayface.data.augmentation import jitter_colour, mirror, move
        from rayface.data.degradation import degrade_some

        images, masks = to_float(batch["image"]), batch["mask"]
        images, masks = move(images, masks, config.shift, generators)
        if config.flip:
            images, masks = mirror(images, masks, torch.from_numpy(PARSING_FLIP), generators)
        images = jitter_colour(images, config.jitter, generators)
        images = degrade_some(images, config.degrade, generators)
        return {"image": images, "mask": masks}

    def readout(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch["image"], F.one_hot(batch["mask"].long(), len(PARSING_CLASSES)).permute(0, 3, 1, 2).float()

    def evaluate(
        self,
        networks: Networks,
        config: ParsingConfig,
        dataset: "FaceDataset",
        device: torch.device,
        limit: int | None = None,
    ) -> dict[str, Any]:
        from rayface.evaluation.segmentation import segmentation_report

        def predict(images: Tensor) -> Tensor:
            return parse(networks["parser"], images, device)

        return segmentation_report(predict, dataset, config.global_batch, limit)

    def sample_grid(self, networks: Networks, batch: Batch, config: ParsingConfig) -> Tensor:
        from rayface.evaluation.pictures import grid

        images = to_uint8(batch["image"][:6])
        found = networks["parser"](batch["image"][:6]).argmax(1).cpu()
        return grid([images, colour_mask(batch["mask"][:6]), colour_mask(found)])

    def make_step(self, loaded: "LoadedModel", device: str | torch.device = "cpu") -> "ParseStep":
        return ParseStep(loaded, torch.device(device))


def colour_mask(masks: Tensor) -> Tensor:
    """Ids [N, S, S] -> a picture of them, uint8 [N, 3, S, S]."""
    return torch.from_numpy(PARSING_COLOURS[masks.cpu().numpy()]).permute(0, 3, 1, 2)


@torch.inference_mode()
def parse(parser: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """uint8 [N, 3, S, S] -> class ids uint8 [N, S, S] on the CPU."""
    return parser(to_float(crops.to(device))).argmax(1).to(torch.uint8).cpu()


class ParseStep:
    """The parser at serving; as a step it paints the mask, `masks` gives the ids that fusion uses."""

    name = "parse"
    sharpens = False

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.device = device
        self.parser = loaded.networks["parser"].to(device).to(memory_format=torch.channels_last)
        self.classes = PARSING_CLASSES

    def masks(self, crops: Tensor) -> Tensor:
        """Crops uint8 [N, 3, S, S] of this step's size -> ids uint8 [N, S, S]."""
        return parse(self.parser, crops, self.device)

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        return colour_mask(self.masks(crops))
